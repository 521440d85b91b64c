"""Base class of export formats, and the check that an export reproduces the network."""

from __future__ import annotations

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

from autotune.backbones.base import Backbone
from autotune.backbones.copying import copied
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.inputs import read_input, some_inputs
from autotune.backbones.layer_names import layer_name
from autotune.backbones.units import Unit, Units
from autotune.deltas.apply import artifact_classes, bare_head, device_of, input_of, put_on, tuned
from autotune.deltas.artifact import ARTIFACT_FORMAT, Artifact
from autotune.deltas.computed import settle
from autotune.deltas.outputs import NOT_REPEATABLE, REPEATABLE, is_repeatable, refusal
from autotune.deltas.rounding import rounding
from autotune.deltas.surgery import difference
from autotune.errors import AutotuneError, ConfigError, ExportError, first_line
from autotune.run.settings import Settings
from autotune.session.costing import parse_budget
from autotune.session.sources import find_choices
from autotune.utils.filesystems import is_full

N_EXAMPLES = 4
"""Number of inputs on which an export is compared."""

MAX_TOLERANCE = 0.05
"""Largest permitted difference in any format and dtype: more is not rounding, even in bfloat16."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Delta to export and the bare backbone it belongs to. Exporting changes neither."""

    backbone: Backbone
    artifact: Artifact
    settings: Settings
    """Settings that determine the units: search space and granularity."""

    examples: Tensor | None = None
    """Inputs (n, ...) to compare outputs on; None for noise."""

    def provenance(self, form: str) -> dict[str, Any]:
        """Metadata embedded in an export: plan, fingerprint, task, cost, metrics and input."""
        artifact = self.artifact
        return {
            "export": form,
            "format": ARTIFACT_FORMAT,
            "plan": json.loads(artifact.plan.to_json()),
            "fingerprint": artifact.fingerprint,
            **artifact.header,
        }

    def units(self) -> Units:
        """Units that the search space offers on this backbone.

        If the plan names other units, returns those, and each remaining layer as one unit.
        """
        description = self.artifact.header.get("input")
        input = read_input(description, source="the artifact") if description else None
        units = find_choices(self.settings, self.backbone, input)[1]
        if set(self.artifact.plan.choices) <= {unit.name for unit in units}:
            return units
        return Units(by_layer(self.backbone, self.artifact.units), ())

    def budget(self) -> dict[str, Any] | None:
        """Budget of the search: limit, total (the count that is 100 %), measure and original text.

        Returns None for a delta that does not come from a search.
        """
        if "budget" not in self.artifact.header.get("about", {}):
            return None
        budget = parse_budget(self.settings, self.backbone)
        return {
            "limit": budget.limit,
            "total": budget.total,
            "measure": budget.measure.value,
            "text": budget.text,
        }

    def inputs(self) -> Tensor:
        """Inputs to compare outputs on: the examples, or noise as the network expects, (4, ...)."""
        examples = self.examples
        if examples is None:
            examples = some_inputs(input_of(self.artifact), N_EXAMPLES)
        return examples.to(device_of(self.backbone.network))

    def outputs(self) -> Tensor:
        """Outputs of the tuned network for `inputs()`, (4, classes)."""
        with tuned(self.backbone, self.artifact) as network, evaluating(network):
            outputs: Tensor = logits_of(network(self.inputs()))
        return outputs

    def refusal(self) -> str:
        """First line of what the tuned network raises on `inputs()`; empty if it takes them."""
        with tuned(self.backbone, self.artifact) as network:
            return refusal(network, self.inputs())

    def require_repeatable(self) -> None:
        """Raise `ExportError` if a second forward pass of the tuned network gives other outputs.

        The same for a network that refuses the inputs.
        """
        with tuned(self.backbone, self.artifact) as network:
            if reason := refusal(network, self.inputs()):
                kind = "noise" if self.examples is None else "these inputs"
                raise ExportError(
                    f"An export is compared with the tuned network, which refuses {kind} "
                    f"({reason}). Name the task with --task, or give examples with inputs= in "
                    "Python."
                )
            if not is_repeatable(network, self.inputs()):
                raise ExportError(
                    f"An export is compared with the tuned network, but {NOT_REPEATABLE}. "
                    f"{REPEATABLE}"
                )

    def tolerance(self, form: Format) -> float:
        """Largest difference of outputs in a format, for the dtype of the network."""
        return min(form.tolerance * rounding(self.backbone.network), MAX_TOLERANCE)

    def bare(self) -> nn.Module:
        """Copy of the unmodified network with an untrained head for the classes of the task."""
        network = copied(self.backbone.network).eval()
        path, _, name = self.backbone.head.rpartition(".")
        parent = network.get_submodule(path)
        setattr(parent, name, bare_head(self.backbone, self.artifact))
        return network

    @property
    def n_classes(self) -> int:
        """Number of classes of the task."""
        return artifact_classes(self.backbone, self.artifact)

    def tuned(self) -> nn.Module:
        """Tuned copy of the network; weight changes are folded in, added paths stay modules."""
        backbone = replace(self.backbone, network=copied(self.backbone.network))
        put_on(backbone, self.artifact)
        settle(backbone.network)
        return backbone.network.requires_grad_(False)


def by_layer(backbone: Backbone, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """`units`, and one unit for each layer that none of them contains."""
    assigned = {name for unit in units for name in unit.parameters}
    layers: dict[str, list[str]] = {}
    for name in backbone.parameters():
        if name not in assigned:
            layers.setdefault(layer_name(name), []).append(name)
    return (*units, *(Unit(layer, tuple(names)) for layer, names in layers.items()))


class Format(ABC):
    """Format in which a tuned network is exported.

    Laws: reading an export requires no code of autotune; `outputs`, computed by the library of the
    format from the written files alone, match the outputs of the tuned network within `tolerance`,
    which is that of float32; networks of other dtypes have their own.
    """

    file: ClassVar[str]
    """Default name of the file or folder."""

    tolerance: ClassVar[float] = 1e-5
    """Largest permitted difference of outputs of float32 networks, relative to the largest output.

    1e-5 leaves room for rounding when operations are fused or reordered; `Subject.tolerance` has
    the value for another dtype.
    """

    is_folder: ClassVar[bool] = False

    has_network: ClassVar[bool] = True
    """Whether the written files contain a network, whose outputs are compared."""

    @abstractmethod
    def write(self, subject: Subject, path: Path) -> None:
        """Write `path`, which does not exist yet.

        Raises `ExportError` if the format cannot represent the delta.
        """

    @abstractmethod
    def outputs(self, subject: Subject, path: Path) -> Tensor | None:
        """Outputs of the network in `path` for `subject.inputs()`; None for formats without one."""


def written(form: Format, subject: Subject, path: Path) -> float | None:
    """Write an export to a temporary path next to `path`, verify it, and move it into place.

    Returns the largest difference of outputs, relative to the largest output, or None if the format
    has no network. Raises `ExportError`, leaving `path` unchanged, if the export cannot be written
    or its outputs differ by more than the tolerance of the format.
    """
    if path.is_dir() or (form.is_folder and path.exists()):
        what = "folder" if form.is_folder else "file"
        raise ConfigError(f"An export needs a new {what}, {str(path)!r} exists. Use another -o.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_path(path) as temporary:
            if form.has_network:
                subject.require_repeatable()
            form.write(subject, temporary)
            deviation = _deviation(form, subject, temporary)
            _sync(temporary)
            os.replace(temporary, path)
    except AutotuneError:
        raise
    except Exception as error:  # of a full disk, libraries also raise errors of their own
        if not (isinstance(error, OSError) or is_full(error)):
            raise
        way_out = "Make room, or use" if is_full(error) else "Use"
        raise ExportError(
            f"The export could not be written to {str(path)!r} ({first_line(error)}). {way_out} "
            "another -o."
        ) from error
    return deviation


def _deviation(form: Format, subject: Subject, path: Path) -> float | None:
    outputs = form.outputs(subject, path)
    if outputs is None:
        return None
    return checked(outputs, subject.outputs(), subject.tolerance(form))


def checked(outputs: Tensor, expected: Tensor, tolerance: float) -> float:
    """Largest difference of outputs, relative to the largest expected one.

    Raises `ExportError` if it exceeds `tolerance` or the shapes differ.
    """
    if outputs.shape != expected.shape:
        raise ExportError(
            f"The outputs of an export must have the shape {tuple(expected.shape)}, these have "
            f"{tuple(outputs.shape)}. Nothing was written; export the delta instead."
        )
    deviation = difference(outputs, expected)
    if not deviation <= tolerance:  # not `>`: NaN must be refused too
        raise ExportError(
            f"An export may change outputs by {tolerance:g} of the largest, this one changes them "
            f"by {deviation:.2g}. Nothing was written; export the delta instead."
        )
    return deviation


@contextmanager
def refused(what: str, hint: str) -> Iterator[None]:
    """Convert any exception of a third-party exporter to an `ExportError` on one line."""
    try:
        yield
    except (AutotuneError, MemoryError, OSError):
        raise
    except Exception as error:  # third-party exporters raise arbitrary exceptions
        if is_full(error):
            raise
        message = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{what} cannot write this network ({type(error).__name__}: {message}). {hint}"
        ) from error


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    folder = Path(mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush files to disk, so that the rename after it cannot expose partial ones."""
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        file.chmod(0o644)  # readable by others, whichever mode the library used
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
