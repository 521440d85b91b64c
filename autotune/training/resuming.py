"""Resuming a job from its checkpoint, which may be a forged one of a run folder from others."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from safetensors import SafetensorError

from autotune.errors import TrialError, brief, first_line
from autotune.training.checkpoint import read_header, read_tensors
from autotune.training.loop import Epoch, Fit
from autotune.training.out_of_memory import is_out_of_memory
from autotune.training.trainable import Trainable

UNUSABLE = (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors of reading a checkpoint that no job saved, or of loading it into another job."""


class _Saved(BaseModel):
    """Header of a checkpoint: what a job had done when it was saved."""

    step: Annotated[int, Field(ge=1)]
    metrics: dict[str, float]
    trained: dict[str, list[str]]


def restore(checkpoint: bytes, fit: Fit, network: Trainable, name: str) -> Epoch:
    """Load a job's checkpoint and return the epoch that it was saved after.

    Raises `TrialError` for a checkpoint that this job cannot have saved.
    """
    try:
        saved = _Saved.model_validate(read_header(checkpoint)["progress"])
        _load(checkpoint, saved, fit, network)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise unusable(name, error) from error
    if saved.trained != network.trained_names():
        raise TrialError(
            f"A job must resume with the tensors that trained before, the checkpoint of {name} has "
            "others. Start a new search."
        )
    return Epoch(saved.step, 0.0, saved.metrics)


def _load(checkpoint: bytes, saved: _Saved, fit: Fit, network: Trainable) -> None:
    if saved.step > fit.recipe.epochs or fit.recipe.metric not in saved.metrics:
        raise ValueError(f"it ends after epoch {saved.step}, with {', '.join(saved.metrics)}")
    kinds = read_tensors(checkpoint)
    network.load(kinds)
    fit.restore(kinds.get("optimizer", {}), saved.step)


def unusable(name: str, error: Exception) -> TrialError:
    """Error to raise for a checkpoint that the job of this name cannot have saved."""
    reason = brief(f"{type(error).__name__}: {first_line(error)}")
    return TrialError(
        f"A job must resume from what it saved, the checkpoint of {name} is something else "
        f"({reason}). Start a new search."
    )
