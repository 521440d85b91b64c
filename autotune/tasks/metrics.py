"""Metrics of predictions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc")


def measure(logits: Tensor, labels: Tensor, metric: str) -> dict[str, float]:
    """`loss`, `accuracy` and the maximised metric, from logits (n, classes) and labels (n,).

    Balanced accuracy, F1 and AUROC are unweighted means over classes.
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
    if metric == "balanced_accuracy":
        measured[metric] = float(tm.multiclass_accuracy(logits, labels, classes, average="macro"))
    elif metric == "f1":
        measured[metric] = float(tm.multiclass_f1_score(logits, labels, classes, average="macro"))
    elif metric == "auroc":
        measured[metric] = float(tm.multiclass_auroc(logits.float(), labels, classes))
    return measured
