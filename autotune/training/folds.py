"""Progress of a job that is scored by cross-validation folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.problem.job import Progress
from autotune.training.checkpoint import read_header, to_checkpoint

FoldMetrics = Mapping[str, float]
"""Metrics of one fold after its last epoch."""


def fold_progress(metrics: Sequence[FoldMetrics], metric: str) -> Progress:
    """Progress after some folds: means over them, and a checkpoint with the metrics of each."""
    means = {key: sum(fold[key] for fold in metrics) / len(metrics) for key in metrics[0]}
    checkpoint = to_checkpoint({}, {"folds": [dict(fold) for fold in metrics]})
    values = tuple(fold[metric] for fold in metrics)
    return Progress(len(metrics), means[metric], means, checkpoint, folds=values)


def read_folds(checkpoint: bytes | None) -> list[FoldMetrics]:
    """Metrics of the folds that a checkpoint has; none without a checkpoint."""
    return list(read_header(checkpoint)["folds"]) if checkpoint else []
