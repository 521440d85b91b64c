"""What every format of an export is given, promises, and is checked for."""

from __future__ import annotations

import copy
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

from torch import Tensor, nn

from autotune.backbones.base import Backbone, new_head
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import read_input, some_inputs
from autotune.backbones.units import Unit, Units
from autotune.deltas.apply import device_of, input_of, put_on, tuned
from autotune.deltas.artifact import ARTIFACT_FORMAT, Artifact
from autotune.deltas.surgery import difference, settle
from autotune.errors import AutotuneError, ConfigError, ExportError
from autotune.run.settings import Settings
from autotune.session.setup import find_choices, parse_budget


@dataclass(frozen=True, eq=False)
class Subject:
    """What is exported: a delta, and the bare backbone that it belongs to; neither is changed."""

    backbone: Backbone
    artifact: Artifact
    settings: Settings
    """What the units follow from: search space and granularity."""

    def provenance(self, form: str) -> dict[str, Any]:
        """What is told in an export itself: where it comes from, and what it takes and gives."""
        own = self.artifact
        return {
            "export": form,
            "format": ARTIFACT_FORMAT,
            "plan": json.loads(own.plan.to_json()),
            "fingerprint": own.fingerprint,
            **own.header,
        }

    def units(self) -> Units:
        """All that a plan could have chosen on this backbone."""
        described = self.artifact.header.get("input")
        input = read_input(described, source="the artifact") if described else None
        units = find_choices(self.settings, self.backbone, input)[1]
        if set(self.artifact.plan.choices) <= {unit.name for unit in units}:
            return units
        return Units(by_layer(self.backbone, self.artifact.units), ())

    def budget(self) -> dict[str, Any] | None:
        """The limit of the search, what 100 % are, what is counted, and the budget's own text.

        None for a delta that no search found.
        """
        if "budget" not in self.artifact.header.get("about", {}):
            return None
        found = parse_budget(self.settings, self.backbone)
        measure = found.measure.value
        return {
            "limit": found.limit,
            "total": found.total,
            "measure": measure,
            "text": found.text,
        }

    def inputs(self) -> Tensor:
        """Some noise that the network takes, (4, ...)."""
        return some_inputs(input_of(self.artifact)).to(device_of(self.backbone.network))

    def outputs(self) -> Tensor:
        """What the tuned network gives for it, (4, classes)."""
        with tuned(self.backbone, self.artifact) as network, evaluating(network):
            outputs: Tensor = network(self.inputs())
        return outputs

    def bare(self) -> nn.Module:
        """A copy of the network as its architecture is, with a new head for the task's classes."""
        network = copy.deepcopy(self.backbone.network).eval()
        path, _, name = self.backbone.head.rpartition(".")
        parent = network.get_submodule(path)
        classes = len(self.artifact.tensors["head/weight"])
        setattr(parent, name, new_head(getattr(parent, name), classes))
        return network

    def tuned(self) -> nn.Module:
        """A tuned copy of the network: changed weights written into it, paths beside them."""
        own = replace(self.backbone, network=copy.deepcopy(self.backbone.network))
        put_on(own, self.artifact)
        settle(own.network)
        return own.network.requires_grad_(False)


def by_layer(backbone: Backbone, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Some units, and each layer that is in none of them as one."""
    taken = {name for unit in units for name in unit.parameters}
    layers: dict[str, list[str]] = {}
    for name in backbone.parameters():
        if name not in taken:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return (*units, *(Unit(layer, tuple(names)) for layer, names in layers.items()))


class Format(ABC):
    """A form in which a tuned network leaves autotune.

    Laws: what is written needs nothing of autotune to be read; `outputs`, by its own library and
    from what was written alone, are those of the tuned network within `tolerance`.
    """

    file: ClassVar[str]
    """Its usual name."""

    tolerance: ClassVar[float] = 1e-5
    """Largest difference of outputs, relative to the largest of them."""

    is_folder: ClassVar[bool] = False

    @abstractmethod
    def write(self, subject: Subject, path: Path) -> None:
        """Write `path`, which is not there yet; `ExportError` for a delta that has no such form."""

    @abstractmethod
    def outputs(self, subject: Subject, path: Path) -> Tensor | None:
        """What the network in `path` gives for the subject's inputs; None where there is none."""


def written(form: Format, subject: Subject, path: Path) -> float | None:
    """Write a format beside `path`, check it, and rename it; the largest difference of outputs.

    None where it computes nothing.

    Raises `ExportError`, and leaves `path` as it was, where it cannot be written or differs by
    more than its tolerance.
    """
    if path.is_dir() or (form.is_folder and path.exists()):
        what = "folder" if form.is_folder else "file"
        raise ConfigError(f"An export needs a new {what}, {str(path)!r} exists. Name another -o.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as beside:
            form.write(subject, beside)
            outputs = form.outputs(subject, beside)
            found = None if outputs is None else checked(outputs, subject.outputs(), form.tolerance)
            _sync(beside)
            os.replace(beside, path)
    except OSError as error:
        raise ExportError(
            f"An export must be written to {str(path)!r}, which failed ({error}). Name another -o."
        ) from error
    return found


def checked(ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """The largest difference of outputs; `ExportError` where it is more than it may be."""
    if ours.shape != theirs.shape:
        raise ExportError(
            f"What is exported must give {tuple(theirs.shape)}, it gives {tuple(ours.shape)}."
        )
    found = difference(ours, theirs)
    if not found <= tolerance:  # NaN is refused too
        raise ExportError(
            f"An export may change outputs by {tolerance:g} of the largest, this one changes them "
            f"by {found:.2g}. Nothing was written; export the delta instead."
        )
    return found


@contextmanager
def refused(what: str, hint: str) -> Iterator[None]:
    """What a foreign exporter raises, in one line."""
    try:
        yield
    except (AutotuneError, MemoryError, OSError):
        raise
    except Exception as error:  # exporters of others raise anything
        said = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{what} cannot write this network ({type(error).__name__}: {said}). {hint}"
        ) from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    folder = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        file.chmod(0o644)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
