"""Resuming a job from a checkpoint that it did not save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autotune.errors import TrialError
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.training.checkpoint import read_header, read_tensors, to_checkpoint

Kinds = dict[str, dict[str, torch.Tensor]]
PLAN = Plan({"first": Choice.of("lowrank", rank=2)})
RATES = {"lr:head": 0.01, "lr:lowrank": 0.01}


def job(checkpoint: bytes | None = None) -> Job:
    return Job("trial 0", PLAN, RATES, seed=0, number=0, checkpoint=checkpoint)


@pytest.fixture
def saved(make_engine: Any) -> bytes:
    """Checkpoint after the first epoch."""
    first, *_ = make_engine()(job())
    return bytes(first.checkpoint)


def with_header(**changes: Any) -> Callable[[bytes], bytes]:
    def change(checkpoint: bytes) -> bytes:
        header = {**read_header(checkpoint)["progress"], **changes}
        return to_checkpoint(read_tensors(checkpoint), {"progress": header})

    return change


def with_tensor(kind: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def changed(checkpoint: bytes) -> bytes:
        kinds: Kinds = read_tensors(checkpoint)
        name = max(kinds[kind], key=lambda name: kinds[kind][name].numel())
        kinds[kind][name] = change(kinds[kind][name])
        return to_checkpoint(kinds, {"progress": read_header(checkpoint)["progress"]})

    return changed


def without(kind: str) -> Callable[[bytes], bytes]:
    def change(checkpoint: bytes) -> bytes:
        kinds = {name: some for name, some in read_tensors(checkpoint).items() if name != kind}
        return to_checkpoint(kinds, read_header(checkpoint))

    return change


FORGED = [
    lambda _: b"{}",
    lambda checkpoint: checkpoint[:-9],
    lambda checkpoint: b"\xff" * 8 + checkpoint[8:],
    lambda checkpoint: to_checkpoint(read_tensors(checkpoint), {}),
    lambda checkpoint: to_checkpoint(read_tensors(checkpoint), {"progress": [1]}),
    with_header(step="x"),
    with_header(step=0),
    with_header(step=10**9),
    with_header(metrics={}),
    with_header(metrics={"accuracy": "high"}),
    with_header(trained=None),
    without("delta"),
    without("head"),
    with_tensor("delta", torch.flatten),
    with_tensor("head", lambda tensor: tensor[:1]),
    with_tensor("optimizer", lambda tensor: tensor[:1]),
]


def test_checkpoints_that_no_job_saved_are_refused_in_one_line(make_engine, saved, tiny_network):
    before = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    engine = make_engine()
    for change in FORGED:
        with pytest.raises(TrialError, match="resume from what it saved, the checkpoint") as raised:
            next(engine(job(change(saved))))
        assert "\n" not in str(raised.value)
    after = tiny_network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_moments_of_a_parameter_that_is_not_there_are_refused(make_engine, saved):
    kinds = read_tensors(saved)
    kinds["optimizer"] = {"99/exp_avg": torch.zeros(1), "x/exp_avg": torch.zeros(1)}
    changed = to_checkpoint(kinds, read_header(saved))
    with pytest.raises(TrialError, match="must resume from what it saved"):
        next(make_engine()(job(changed)))


def test_folds_that_no_job_saved_are_refused(make_engine):
    engine = make_engine(folds=3)
    for folds in (None, 3, [1], [{"accuracy": "x"}], [{"loss": 1.0}], [{"accuracy": 1.0}] * 4):
        with pytest.raises(TrialError, match="must resume from what it saved"):
            next(engine(job(to_checkpoint({}, {"folds": folds}))))
