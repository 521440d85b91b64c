"""Accuracy is torchmetrics', without its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autotune.tasks.metrics import METRICS, measure

LIGHT = """
import sys, torch
from autotune.tasks.metrics import measure
measure(torch.eye(3), torch.arange(3), "accuracy")
assert not {"torchmetrics", "transformers", "scipy", "sklearn"} & set(sys.modules), sys.modules
"""


def test_accuracy_equals_torchmetrics_bit_for_bit():
    from torchmetrics.functional.classification import multiclass_accuracy

    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 7, 50, 299, 1000, 4999):
        logits = torch.randn(n, 5, generator=generator).round()  # with ties
        labels = torch.randint(5, (n,), generator=generator)
        expected = float(multiclass_accuracy(logits, labels, 5, average="micro"))
        assert measure(logits, labels, "accuracy")["accuracy"] == expected


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_measured_next_to_loss_and_accuracy(metric):
    measured = measure(4 * torch.eye(3), torch.arange(3), metric)
    assert set(measured) == {"loss", "accuracy", metric}
    assert measured[metric] == 1.0


@pytest.mark.slow
def test_accuracy_imports_nothing_but_torch():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


@pytest.mark.slow
def test_classes_without_an_example_are_not_measured():
    logits = torch.tensor([[2.0, 0.0, 9.0], [2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert measure(logits, labels, "balanced_accuracy")["balanced_accuracy"] == 0.75
    assert measure(logits, labels, "auroc")["auroc"] == pytest.approx(0.75)
    assert measure(logits[:2], labels[:2], "auroc")["auroc"] == 0.5
