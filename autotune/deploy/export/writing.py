"""Export in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import written
from autotune.deploy.export.mask import Mask
from autotune.deploy.export.subject import subject_of
from autotune.errors import ConfigError


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    format: str

    difference: float | None
    """Largest of the outputs on a batch of noise, relative to the largest output; None where the
    format computes nothing."""


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
) -> Export:
    """Write what is at `path`, a run folder or a delta file, in a form that others read.

    `format` is one of `autotune list formats`, `out` a file (for `peft` a new folder), `tensors`
    beside a mask a file with a boolean tensor a parameter. Which delta, and on which backbone:
    `trial`, `within`, `retrain`, `backbone`, `task`, `weights`, `head` as in `autotune export`.
    What is written is read again by its own library and compared on a batch first. Raises
    `ExportError` where it cannot be written or differs, with nothing left behind, `ConfigError`
    for `tensors` without a mask.
    """
    kind = FORMATS.load(format)
    if tensors is not None and kind is not Mask:
        raise ConfigError(f"--tensors goes with the format mask, not with {format}.")
    form = Mask(Path(tensors)) if tensors is not None else kind()
    target = Path(out) if out is not None else Path(kind.file)
    subject = subject_of(
        path,
        trial=trial,
        within=within,
        retrain=retrain,
        backbone=backbone,
        task=task,
        weights=weights,
        head=head,
    )
    return Export(target, format, written(form, subject, target))
