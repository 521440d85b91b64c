"""The delta file: safetensors with the deltas, prepared buffers and head; JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from autotune.backbones.base import fingerprint
from autotune.backbones.units import Unit
from autotune.errors import ArtifactError, AutotuneError
from autotune.problem.plan import Plan

ARTIFACT_FORMAT = 1


class _Header(BaseModel):
    """Types of the header fields, required and optional; others are allowed."""

    plan: dict[str, Any]
    units: dict[str, tuple[str, ...]]
    spans: dict[str, tuple[tuple[str, ...], ...]]
    fingerprint: str
    digest: str
    input: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    metrics: dict[str, Any] = {}
    task: dict[str, Any] = {}
    about: dict[str, Any] = {}


_STRUCTURE = ("format", "plan", "units", "spans", "fingerprint", "digest")


@dataclass(frozen=True, eq=False)
class Artifact:
    """A delta and everything that is needed to put it on the right backbone."""

    plan: Plan
    units: tuple[Unit, ...]
    """The tuned units."""

    fingerprint: str
    """Fingerprint of the backbone as it was loaded, before preparation."""

    tensors: Mapping[str, Tensor]
    """Tensors by name: `delta/UNIT/METHOD/NAME`, `head/NAME` and `buffer/NAME`."""

    header: Mapping[str, Any]
    """`input`, `cost`, `metrics`, `task`, and `about` for versions, seeds and the like."""

    def part(self, kind: str) -> dict[str, Tensor]:
        """Tensors of one kind (`delta`, `head`, `buffer`), their names without the prefix."""
        prefix = kind + "/"
        named = self.tensors.items()
        return {name.removeprefix(prefix): t for name, t in named if name.startswith(prefix)}


def to_bytes(artifact: Artifact) -> bytes:
    """Content of the artifact's file."""
    header = {
        "format": ARTIFACT_FORMAT,
        "plan": json.loads(artifact.plan.to_json()),
        "units": {u.name: u.parameters for u in artifact.units if not u.is_span()},
        "spans": {u.name: u.levels for u in artifact.units if u.is_span()},
        "fingerprint": artifact.fingerprint,
        "digest": fingerprint(artifact.tensors),
        **artifact.header,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in artifact.tensors.items()}
    return save_tensors(tensors, {key: json.dumps(value) for key, value in header.items()})


def from_bytes(content: bytes, source: str) -> Artifact:
    """Read what `to_bytes` wrote; `ArtifactError` for anything else. No code in it is executed."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        read = {key: json.loads(value) for key, value in header.items()}
        _check_format(read.get("format"), source)
        if "plan" not in read or "units" not in read:
            raise ValueError("it is another kind of file: see autotune inspect")
        structure, tensors = _Header.model_validate(read), load_tensors(content)
        if structure.digest != fingerprint(tensors):
            raise ValueError("its tensors are not the ones that were written")
        return Artifact(
            plan=Plan.from_json(json.dumps(structure.plan)),
            units=(
                *(Unit(name, parameters) for name, parameters in structure.units.items()),
                *(Unit(name, (), levels) for name, levels in structure.spans.items()),
            ),
            fingerprint=structure.fingerprint,
            tensors=tensors,
            header={key: value for key, value in read.items() if key not in _STRUCTURE},
        )
    except ArtifactError:
        raise
    except (
        SafetensorError,
        AutotuneError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ArtifactError(
            f"A delta file must be what autotune wrote, {source} is not ({type(error).__name__}: "
            f"{error}). Copy the file from its run folder again."
        ) from error


def read_artifact(path: Path | str) -> Artifact:
    """Read the delta file at `path`, or the answer's delta file in a run folder."""
    file = Path(path)
    if file.is_dir():
        file = file / "best" / "delta.safetensors"
    if not file.is_file():
        raise ArtifactError(f"A delta file must exist, {str(file)!r} does not. Check the path.")
    return from_bytes(file.read_bytes(), str(path))


def read_header(path: Path | str) -> dict[str, Any]:
    """Read the header alone; its key `tensors` maps each tensor's name to its dtype and shape."""
    try:
        with safe_open(path, "pt") as stored:
            header = {key: json.loads(value) for key, value in (stored.metadata() or {}).items()}
            _check_format(header.get("format"), str(path))
            slices = {name: stored.get_slice(name) for name in stored.keys()}
            shapes = {k: [str(s.get_dtype()), *s.get_shape()] for k, s in slices.items()}
            return {**header, "tensors": shapes}
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"A delta file must be safetensors, {path} is not ({error})."
        ) from error


def _check_format(version: object, source: str) -> None:
    if version != ARTIFACT_FORMAT:
        raise ArtifactError(
            f"A delta file must have format {ARTIFACT_FORMAT}, {source} has {version!r}. "
            "Use the version of autotune that wrote it, or search again."
        )
