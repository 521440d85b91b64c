"""Plain values that the study and the engine exchange: jobs to the engine, progress back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from autotune.errors import first_line
from autotune.problem.plan import Plan

EPOCHS = 10
"""Default number of epochs of a training."""

ATTEMPTS = 3
"""Default number of starts of a job whose worker dies, before the job counts as failed."""


@dataclass(frozen=True)
class Job:
    """One training to be run."""

    name: str
    """Name such as `trial 7`, `reference uniform`, `repeat 7 seed 1`."""

    plan: Plan
    hyperparameters: Mapping[str, float]
    """`lr:METHOD` for the head and every method of the plan, and `weight_decay`."""

    seed: int
    number: int = -1
    """The trial's number in the study; -1 for a job that is no trial."""

    attempt: int = 0
    """Number of earlier starts; a report of an older attempt is ignored."""

    whole: bool = False
    """Train on training and validation data together, for the delivered file under folds."""

    parts: int = 1
    """Number of parts in which each batch is trained, to save memory."""

    head_rate: float | None = None
    """Learning rate of a linear probe that is trained first, to initialise the head."""

    checkpoint: bytes | None = field(default=None, repr=False)
    """Checkpoint to resume from, taken from the last progress."""


@dataclass(frozen=True)
class Progress:
    """State of a job after an epoch or, with folds, after a fold."""

    step: int
    """Epochs (folds) done, from 1."""

    value: float
    """Value on validation data that is maximised; larger is better."""

    metrics: Mapping[str, float]
    checkpoint: bytes = field(default=b"", repr=False)
    """Safetensors file to resume from here."""

    artifact: bytes | None = field(default=None, repr=False)
    """Delta file; only in the last progress of a job that delivers one."""

    parts: int = 1
    """Number of parts in which each batch is trained; more than 1 if a whole one does not fit into
    memory."""

    folds: tuple[float, ...] = ()
    """Values of the folds so far, if plans are scored by folds; `value` is their mean."""


class Decision(Enum):
    """The study's answer to a progress."""

    CONTINUE = "continue"
    STOP = "stop"


RunsJob = Callable[[Job], Iterator[Progress]]
"""Function that a backend receives: runs a job, yields its progress, raises if the job fails."""


@dataclass(frozen=True)
class Failure:
    """Reason why a job failed: type and message of its error."""

    type: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(type(error).__name__, first_line(error))


def used(plan: Plan, hyperparameters: Mapping[str, float]) -> dict[str, float]:
    """Hyperparameters that this plan uses: those of the head and of its methods."""
    rates = {f"lr:{method}" for method in ("head", *plan.methods())}
    return {k: v for k, v in hyperparameters.items() if k in rates or not k.startswith("lr:")}
