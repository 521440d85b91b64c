"""Evaluation and prediction with the delta of a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from autotune.tasks.array_files import read_npy
from autotune.tasks.folders import find_images
from autotune.tasks.image import decode_image
from autotune.tasks.imagefolder import read_images, refuse_bad
from autotune.tasks.left_out import LeftOut
from autotune.tasks.loading import PartFeed
from autotune.tasks.numbers import as_inputs, refuse_overflow
from autotune.tasks.options import DataOptions
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
        if setup.task.digest() != study.identity_value("data"):
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
    skip_bad: bool = False,
    storage: str | None = None,
) -> list[dict[str, Any]]:
    """Predicted `class` and its `probability` for an image, a folder of images or an .npy array.

    `input` names each example. Raises `TaskError` if the path cannot be read as such inputs, which
    names all images that do not decode; with `skip_bad`, those of a folder are left out.
    """
    tuned_network = _tuned_network(_ended(run, storage), device, backbone, head_factory)
    with tuned_network as (network, artifact, input, recipe):
        names, part = _examples(Path(path), input, DataOptions(skip_bad))
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
    """Input description of the backbone, with how the delta's images were read.

    If the backbone has none, it is that in the delta file.
    """
    if artifact.header.get("input") is None:
        return backbone.input
    stored = input_of(artifact)
    if backbone.input is None or not backbone.input.is_image:
        return backbone.input or stored
    return replace(backbone.input, bits=stored.bits, background=stored.background)


def _ended(run: str, storage: str | None) -> Study:
    study = Study(run, storage=storage)
    study.best  # noqa: B018  (the property raises until the search has ended)
    if study.settings.has_objects:
        raise RunError(
            f"{run} was started from Python objects, which the command line cannot load. "
            f"Use autotune.load_adapted(model, {str(study.best.artifact)!r})."
        )
    return study


def _examples(
    path: Path, input: InputDescription | None, options: DataOptions
) -> tuple[list[str], Part]:
    if not path.exists():
        raise TaskError(f"Inputs to predict must exist, {str(path)!r} does not.")
    if not path.is_dir() and not path.is_file():
        raise TaskError(f"Inputs to predict must be files, {str(path)!r} is a pipe or a device.")
    if path.suffix == ".npy" and path.is_file():
        return _array(path, input)
    if input is None or not input.is_image:
        raise TaskError("The backbone takes no images. Use an .npy array of its inputs.")
    files, images = _images(path, input, options)
    part = Part(images, np.zeros(len(files), np.int64))
    return [str(file) for file in files], part


def _images(
    path: Path, input: InputDescription, options: DataOptions
) -> tuple[list[Path], torch.Tensor]:
    """Normalised images of a file or folder; `TaskError` that names all that do not decode."""
    if not path.is_dir():
        return [path], input.normalise(decode_image(path, input)[None])
    left_out = LeftOut()
    files = [path / file.relative_to(path.absolute()) for file in find_images(path, left_out)]
    left_out.report(str(path))
    if not files:
        raise TaskError(f"A folder must contain images, {str(path)!r} has none. Check the path.")
    read = read_images(files, input, always_keep=True)
    refuse_bad(read.skipped, str(path), options)
    if not read.images:
        raise TaskError(f"A folder must contain images, none of {str(path)!r} decodes.")
    images = [input.normalise(image.pixels[None]) for image in read.images]
    return read.good_files, torch.cat(images)


def _array(path: Path, input: InputDescription | None) -> tuple[list[str], Part]:
    array = read_npy(path)
    inputs = as_inputs(array, input, str(path))
    if input is not None and tuple(inputs.shape[1:]) != input.example_shape:
        if tuple(inputs.shape) != input.example_shape:
            raise TaskError(
                f"Examples must have the shape {input.example_shape}, {path} has "
                f"{tuple(inputs.shape[1:])}."
            )
        inputs = inputs[None]
    if input is not None:
        refuse_overflow(inputs, input.dtype, str(path))
    if inputs.dtype == torch.uint8 and input is not None:
        inputs = input.normalise(inputs)
    return [f"{path}[{i}]" for i in range(len(inputs))], Part(
        inputs, np.zeros(len(inputs), np.int64)
    )
