"""Progress of a job that is scored by cross-validation folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from autotune.problem.job import Progress
from autotune.training.checkpoint import read_header, to_checkpoint
from autotune.training.resuming import UNUSABLE, unusable

FoldMetrics = Mapping[str, float]
"""Metrics of one fold after its last epoch."""


def fold_progress(metrics: Sequence[FoldMetrics], metric: str) -> Progress:
    """Progress after some folds: means over them, and a checkpoint with the metrics of each."""
    means = {key: sum(fold[key] for fold in metrics) / len(metrics) for key in metrics[0]}
    checkpoint = to_checkpoint({}, {"folds": [dict(fold) for fold in metrics]})
    values = tuple(fold[metric] for fold in metrics)
    return Progress(len(metrics), means[metric], means, checkpoint, folds=values)


def read_folds(checkpoint: bytes | None, n: int, metric: str, name: str) -> list[FoldMetrics]:
    """Metrics of the folds that a job's checkpoint has, at most `n`; none without a checkpoint.

    Raises `TrialError` for a checkpoint that this job cannot have saved.
    """
    if checkpoint is None:
        return []
    try:
        folds = _FOLDS.validate_python(read_header(checkpoint)["folds"])
        if len(folds) > n or not all(metric in fold for fold in folds):
            raise ValueError(f"it has {len(folds)} folds, of which not all have {metric}")
    except UNUSABLE as error:
        raise unusable(name, error) from error
    return list(folds)


_FOLDS = TypeAdapter(list[dict[str, float]])
