"""Export of a run or a delta file in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autotune.backbones.heads.factory import HeadFactory
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import written
from autotune.deploy.export.examples import with_examples
from autotune.deploy.export.mask import Mask
from autotune.deploy.export.subject import subject_of
from autotune.errors import ConfigError
from autotune.utils.new_path import require_writable


@dataclass(frozen=True)
class Export:
    """Result of an export."""

    path: Path
    format: str

    difference: float | None
    """Largest difference of outputs relative to the largest output.

    None if the format contains no network.
    """


def export_model(
    path: str | Path,
    format: str = "mask",
    out: str | Path | None = None,
    *,
    tensors: str | Path | None = None,
    trial: int | None = None,
    within: str | None = None,
    retrain: bool = False,
    backbone: Any = None,
    task: Any = None,
    weights: str | None = None,
    head: str | None = None,
    head_factory: str | HeadFactory | None = None,
    storage: str | None = None,
    inputs: Tensor | None = None,
) -> Export:
    """Export the run folder or delta file at `path` for use without autotune.

    `format` is one of `autotune list formats`; `out` is a file, or a new folder for `peft`;
    `tensors` is an additional file with one boolean tensor per parameter, for the format `mask`
    only. `trial`, `within`, `retrain`, `backbone`, `task`, `weights`, `head`, `head_factory`
    and `storage` select the delta and its backbone, as in `autotune export`. Before `out` is
    written, the export is read with the library of its format and its outputs are compared on
    `inputs` (n, ...), noise by default, or examples of the task if the network refuses noise.
    Raises `ExportError`, leaving
    nothing behind, if the export cannot be written or its outputs differ, and `ConfigError` for
    `tensors` with another format.
    """
    kind = FORMATS.load(format)
    if tensors is not None and kind is not Mask:
        raise ConfigError(f"--tensors needs the format mask, not {format}. Leave --tensors out.")
    form = Mask(Path(tensors)) if tensors is not None else kind()
    target = Path(out) if out is not None else Path(kind.file)
    if not target.is_dir():  # which is refused with the format
        require_writable(target, "The export", "-o")
    if tensors is not None:
        require_writable(tensors, "The mask's tensors", "--tensors")
    subject = subject_of(
        path,
        trial=trial,
        within=within,
        retrain=retrain,
        backbone=backbone,
        task=task,
        weights=weights,
        head=head,
        head_factory=head_factory,
        storage=storage,
    )
    if form.has_network:
        subject = with_examples(subject, path, task, inputs)
    return Export(target, format, written(form, subject, target))
