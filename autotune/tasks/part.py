"""A part of a data set: examples and their labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Examples with labels. Inputs are a tensor, or a sequence that decodes them on access."""

    inputs: Tensor | Sequence[Tensor]
    """(n, ...) float32 or int64 as the network takes them, or uint8 images
    (n, channels, height, width), which are normalised per batch; a sequence returns one such
    example per index."""

    labels: Labels
    """(n,) int64."""

    groups: Labels | None = None
    """(n,) int64, the group of each example, whose examples stay in one part; None without any."""

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle inputs in memory as an array, which processes of one machine may share."""
        inputs = self.inputs.numpy() if isinstance(self.inputs, Tensor) else self.inputs
        return _as_part, (inputs, self.labels, self.groups)

    def take(self, rows: NDArray[Any]) -> Part:
        """These rows, in this order."""
        groups = None if self.groups is None else self.groups[rows]
        if isinstance(self.inputs, Tensor):
            return Part(self.inputs[torch.from_numpy(rows)], self.labels[rows], groups)
        return Part(Rows(self.inputs, rows), self.labels[rows], groups)

    def files(self) -> Sequence[Path]:
        """Files that are read during training, for examples that are not in memory."""
        return files_of(self.inputs)

    def first(self) -> Tensor:
        """The first example, for its shape and dtype."""
        return self.inputs[0]

    def digest(self) -> str:
        """Digest of the examples; for image files, of their names, sizes and times.

        A sequence that cannot be identified gets a new digest each time.
        """
        return _content(self.inputs)


def _as_part(inputs: Any, labels: Labels, groups: Labels | None = None) -> Part:
    labels = labels.copy()  # torch warns of arrays in shared memory, which are read-only
    if not isinstance(inputs, np.ndarray):
        return Part(inputs, labels, groups)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return Part(torch.from_numpy(inputs), labels, groups)  # parts are never written to


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Tensor]):
    """Selected rows of a sequence of examples."""

    inputs: Sequence[Tensor]
    rows: NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return self.inputs[self.rows[at]]


def _content(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        digest = sha256(f"{inputs.dtype} {tuple(inputs.shape)} ".encode())
        digest.update(inputs.contiguous().numpy().data)
        return digest.hexdigest()
    if isinstance(inputs, Rows):
        return sha256(_content(inputs.inputs).encode() + inputs.rows.tobytes()).hexdigest()
    if isinstance(inputs, Chained):
        return sha256(f"{_content(inputs.first)} {_content(inputs.second)}".encode()).hexdigest()
    if identity := getattr(inputs, "identity", None):
        return str(identity)
    if files := files_of(inputs):
        about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return sha256(repr(about).encode()).hexdigest()
    return uuid4().hex


def files_of(inputs: Any) -> Sequence[Path]:
    """Files behind a sequence of examples; empty for any that has none."""
    if isinstance(inputs, Rows):
        return files_of(inputs.inputs)
    files: Sequence[Path] = getattr(inputs, "files", ())
    return files


def carried_part(part: Part) -> Part:
    """The part with the content of its files in memory."""
    carry = getattr(part.inputs, "carried", None)
    return part if carry is None else Part(carry(), part.labels, part.groups)


def join(first: Part, second: Part) -> Part:
    """Both parts, one after the other."""
    labels = np.concatenate([first.labels, second.labels])
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = np.concatenate([first.groups, second.groups])
    if isinstance(first.inputs, Tensor) and isinstance(second.inputs, Tensor):
        return Part(torch.cat([first.inputs, second.inputs]), labels, groups)
    return Part(Chained(first.inputs, second.inputs), labels, groups)


@dataclass(frozen=True, eq=False)
class Chained(Sequence[Tensor]):
    """Two sequences of examples, one after the other."""

    first: Any
    second: Any

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, at: Any) -> Any:
        n = len(self.first)
        return self.first[at] if at < n else self.second[at - n]
