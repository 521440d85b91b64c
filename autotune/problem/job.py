"""What passes between the study and the engine: jobs one way, progress the other. Plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from autotune.errors import first_line
from autotune.problem.plan import Plan

EPOCHS = 10
"""Epochs of a training, if nothing else is asked for."""

ATTEMPTS = 3
"""A job whose worker dies is started so often before it counts as failed, if nothing else is
asked."""


@dataclass(frozen=True)
class Job:
    """One training to be run."""

    name: str
    """`trial 7`, `reference uniform`, `repeat 7 seed 1`."""

    plan: Plan
    hyperparameters: Mapping[str, float]
    """`lr:METHOD` for the head and every method of the plan, and `weight_decay`."""

    seed: int
    number: int = -1
    """The trial's number in the study; -1 for a job beside it."""

    attempt: int = 0
    """Number of earlier starts; a report of an older attempt is ignored."""

    whole: bool = False
    """Train on training and validation data together, for the delivered file under folds."""

    parts: int = 1
    """Parts that each batch is trained in."""

    head_rate: float | None = None
    """Learning rate of a linear probe that is trained first, for its head to begin with."""

    checkpoint: bytes | None = field(default=None, repr=False)
    """Where to go on, as the last progress gave it."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands after an epoch or, with folds, after a fold."""

    step: int
    """Epochs (folds) done, from 1."""

    value: float
    """What is maximised, on validation; larger is better."""

    metrics: Mapping[str, float]
    checkpoint: bytes = field(default=b"", repr=False)
    """Enough to go on from here, as safetensors."""

    artifact: bytes | None = field(default=None, repr=False)
    """The delta file, with the last progress of a job that delivers one."""

    parts: int = 1
    """Parts that each batch is trained in, where a whole one does not fit into memory."""

    folds: tuple[float, ...] = ()
    """Where plans are scored by folds: the value of each one so far, whose mean is the value."""


class Decision(Enum):
    """The study's answer to a progress."""

    CONTINUE = "continue"
    STOP = "stop"


RunsJob = Callable[[Job], Iterator[Progress]]
"""What a backend receives: runs a job and tells its progress; raises when the job fails."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    type: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(type(error).__name__, first_line(error))


def used(plan: Plan, hyperparameters: Mapping[str, float]) -> dict[str, float]:
    """The hyperparameters that matter for this plan: those of the head and of its methods."""
    rates = {f"lr:{method}" for method in ("head", *plan.methods())}
    return {k: v for k, v in hyperparameters.items() if k in rates or not k.startswith("lr:")}
