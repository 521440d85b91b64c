"""Checks of a delta that is added to a server: a hostile one would fail later, for everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autotune.deltas.artifact import Artifact
from autotune.errors import ArtifactError, brief

MAX_CHARACTERS = 1_000_000
"""Longest description of a task, as JSON; one with a thousand classes has some ten thousand."""


def check_values(artifact: Artifact, description: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` for tensors that are not finite, or a header that is no JSON."""
    for name, tensor in artifact.tensors.items():
        if not tensor.isfinite().all():
            raise ArtifactError(f"A delta must have finite values, {brief(repr(name))} has others.")
    try:
        length = len(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"A delta must be described in JSON ({brief_of(error)}).") from error
    if length > MAX_CHARACTERS:
        raise ArtifactError(
            f"A delta is described by at most {MAX_CHARACTERS:,} characters, got {length:,}."
        )


def check_outputs(classes: Any, logits: Tensor) -> None:
    """Raise `ArtifactError` if outputs (classes,) are not finite, or not those of the classes."""
    n = len(logits)
    is_list = isinstance(classes, list) and all(isinstance(name, str | int) for name in classes)
    if not is_list or len(classes) not in (0, n):
        shown = brief(repr(classes))
        raise ArtifactError(
            f"A delta must name the classes of all its {n} outputs or none, got {shown}."
        )
    if not logits.isfinite().all():
        raise ArtifactError("A delta must give finite outputs, this one gives others.")


def brief_of(error: BaseException) -> str:
    """Message of an error on one line, or its type if it has none."""
    return brief(" ".join(str(error).split())) or type(error).__name__
