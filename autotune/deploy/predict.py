"""Evaluation and prediction with the delta of a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.inputs import InputDescription
from autotune.deltas.apply import described, input_of, tuned
from autotune.deltas.artifact import Artifact, read_artifact
from autotune.errors import ConfigError, RunError, TaskError, first_line, unknown
from autotune.run.notebook import Study
from autotune.session.api import named
from autotune.session.setup import prepare_search
from autotune.session.sources import find_backbone
from autotune.tasks.imagefolder import SUFFIXES, decode_image
from autotune.tasks.loading import PartFeed
from autotune.tasks.npz import as_inputs
from autotune.tasks.part import Part
from autotune.training.loop import Recipe, predict

TASK_PARTS = ("test", "val", "train")


def evaluate_run(
    run: str,
    *,
    part: str = "test",
    device: str = "auto",
    backbone: str | None = None,
    task: str | None = None,
    head_factory: str | None = None,
    storage: str | None = None,
) -> dict[str, Any]:
    """Metrics of the delta in `best/` on a part of the run's task, and `n`, the number of examples.

    Raises `TaskError` if the data have changed since the search.
    """
    if part not in TASK_PARTS:
        raise ConfigError(unknown("part", part, TASK_PARTS))
    study = _ended(run, storage)
    factory = named(study, "head_factory", head_factory)
    settings = study.settings.model_copy(update={"device": device, "head_factory": factory})
    setup = prepare_search(settings, named(study, "backbone", backbone), named(study, "task", task))
    try:
        if setup.task.digest() != study.identity["data"]:
            raise TaskError(
                f"Evaluating {run} needs the data of its search, {setup.task.source} has changed. "
                "Restore it: with other splits, training examples could be in the test part."
            )
        chosen = getattr(setup.engine.task, part)
        return {"part": part, **setup.engine.measure(study.best.artifact.read_bytes(), chosen)}
    finally:
        setup.engine.close()


def predict_path(
    run: str,
    path: str,
    *,
    device: str = "auto",
    backbone: str | None = None,
    head_factory: str | None = None,
    storage: str | None = None,
) -> list[dict[str, Any]]:
    """Predicted `class` and its `probability` for an image, a folder of images or an .npy array.

    `input` names each example. Raises `TaskError` if the path cannot be read as such inputs.
    """
    tuned_network = _tuned_network(_ended(run, storage), device, backbone, head_factory)
    with tuned_network as (network, artifact, input, recipe):
        names, part = _examples(Path(path), input)
        try:
            feed = PartFeed(part, input, torch.device(recipe.device))
            logits, _ = predict(network, feed, recipe)
        except (RuntimeError, ValueError, IndexError) as error:
            first = first_line(error)
            raise TaskError(f"The backbone cannot take {path!r}: {first}.") from error
    classes = artifact.header["task"]["classes"]
    best = logits.softmax(1).max(1)
    pairs = zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"input": name, "class": classes[at], "probability": p} for name, at, p in pairs]


@contextmanager
def _tuned_network(
    study: Study, device: str, named_backbone: str | None, head_factory: str | None
) -> Iterator[tuple[nn.Module, Artifact, InputDescription | None, Recipe]]:
    from autotune.session.sources import choose_device

    artifact = read_artifact(study.best.artifact)
    factory = named(study, "head_factory", head_factory)
    settings = study.settings.model_copy(update={"head_factory": factory})
    loaded = find_backbone(settings, named(study, "backbone", named_backbone))
    backbone = described(loaded, artifact)
    recipe = Recipe(batch_size=study.settings.batch_size, device=choose_device(device))
    recipe = recipe.suited(backbone.network)
    with tuned(backbone, artifact, source=str(study.best.artifact)) as network:
        yield network.to(recipe.device), artifact, _input(backbone, artifact), recipe


def _input(backbone: Backbone, artifact: Artifact) -> InputDescription | None:
    """Input description of the backbone or, if it has none, that in the delta file."""
    if backbone.input is not None or artifact.header.get("input") is None:
        return backbone.input
    return input_of(artifact)


def _ended(run: str, storage: str | None) -> Study:
    study = Study(run, storage=storage)
    study.best  # noqa: B018  (the property raises until the search has ended)
    if study.settings.has_objects:
        raise RunError(
            f"{run} was started from Python objects, which the command line cannot load. "
            f"Use autotune.load_adapted(model, {str(study.best.artifact)!r})."
        )
    return study


def _examples(path: Path, input: InputDescription | None) -> tuple[list[str], Part]:
    if not path.exists():
        raise TaskError(f"Inputs to predict must exist, {str(path)!r} does not.")
    if path.suffix == ".npy":
        return _array(path, input)
    files = (
        sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
        if path.is_dir()
        else [path]
    )
    if not files:
        raise TaskError(f"A folder must contain images, {str(path)!r} has none. Check the path.")
    if input is None or not input.is_image:
        raise TaskError("The backbone takes no images. Use an .npy array of its inputs.")
    images = torch.stack([decode_image(file, input) for file in files])
    part = Part(input.normalise(images), np.zeros(len(files), np.int64))
    return [str(file) for file in files], part


def _array(path: Path, input: InputDescription | None) -> tuple[list[str], Part]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TaskError(
            f"An .npy file must contain an array without objects, {path} does not ({error})."
        ) from error
    inputs = as_inputs(array, input, str(path))
    if input is not None and tuple(inputs.shape[1:]) != input.example_shape:
        if tuple(inputs.shape) != input.example_shape:
            raise TaskError(
                f"Examples must have the shape {input.example_shape}, {path} has "
                f"{tuple(inputs.shape[1:])}."
            )
        inputs = inputs[None]
    if inputs.dtype == torch.uint8 and input is not None:
        inputs = input.normalise(inputs)
    return [f"{path}[{i}]" for i in range(len(inputs))], Part(
        inputs, np.zeros(len(inputs), np.int64)
    )
