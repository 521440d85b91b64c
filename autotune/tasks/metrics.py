"""Metrics of predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc")


def measure(logits: Tensor, labels: Tensor, metric: str) -> dict[str, float]:
    """`loss`, `accuracy` and the maximised metric, from logits (n, classes) and labels (n,).

    Balanced accuracy, F1 and AUROC are unweighted means over classes; balanced accuracy and AUROC
    over those that have an example.
    """
    measured = {
        "loss": float(F.cross_entropy(logits.float(), labels)),
        "accuracy": float((logits.argmax(1) == labels).sum().float() / len(labels)),
    }
    if metric == "accuracy":
        return measured
    # Imported late: it imports every optional library that is installed, seconds of processor time.
    from torchmetrics.functional import classification as tm

    classes = logits.shape[1]
    if metric in ("balanced_accuracy", "auroc") and len(labels.unique()) < classes:
        return measured | {metric: _over_present(logits, labels, metric)}
    if metric == "balanced_accuracy":
        measured[metric] = float(tm.multiclass_accuracy(logits, labels, classes, average="macro"))
    elif metric == "f1":
        measured[metric] = float(tm.multiclass_f1_score(logits, labels, classes, average="macro"))
    elif metric == "auroc":
        measured[metric] = float(tm.multiclass_auroc(logits.float(), labels, classes))
    return measured


def _over_present(logits: Tensor, labels: Tensor, metric: str) -> float:
    """Mean over the classes that have an example, where others have none."""
    from torchmetrics.functional import classification as tm

    classes, present = logits.shape[1], labels.unique()
    if metric == "balanced_accuracy":
        return float(
            tm.multiclass_accuracy(logits, labels, classes, average="none")[present].mean()
        )
    if len(present) == 1:
        return 0.5  # nothing to rank against
    scores = logits.float().softmax(1)
    ranked = [tm.binary_auroc(scores[:, c], (labels == c).long()) for c in present]
    return float(torch.stack(ranked).mean())
