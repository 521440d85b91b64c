"""Stores of cached values: memory, or files that the processes of one machine share."""

from __future__ import annotations

import errno
import json
import math
import os
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from autotune.utils.events import tell
from autotune.utils.files import is_foreign, is_trusted

Shape = tuple[int, ...]

NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""dtype → its name in safetensors files."""

STALE = 24 * 3600
"""Age in seconds at which an unfinished file is removed: a day, longer than any one file takes."""

CHUNK = 2**24
"""Bytes per step of a checksum or reservation, 16 MiB; affects only memory."""


class Place(Protocol):
    """Store of at most `limit` bytes of named tensors, with least-recently-used eviction."""

    limit: int
    rate: ClassVar[float]
    """Approximate speed of reading rows, in bytes per second.

    It is not measured per machine, since it only decides which of several values to store.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""

    def find(self, name: str) -> Tensor | None:
        """Stored tensor, which must not be modified; None if it is absent or damaged."""

    def __contains__(self, name: str) -> bool:
        """Whether a tensor of this name was stored, damaged or not."""

    def making(self, name: str, shape: Shape, dtype: torch.dtype) -> AbstractContextManager[Tensor]:
        """Context with an empty tensor to fill, which is stored when the context ends."""

    def alone(self, name: str) -> AbstractContextManager[Any]:
        """Context in which no other process computes this tensor."""


class Memory:
    """Store in the memory of one process, on the device that it computes on."""

    rate: ClassVar[float] = 4e9  # roughly that of gathering rows in memory

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit, self.device = limit, device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._kept.values())

    def find(self, name: str) -> Tensor | None:
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)

    @contextmanager
    def making(self, name: str, shape: Shape, dtype: torch.dtype) -> Iterator[Tensor]:
        size = math.prod(shape) * dtype.itemsize
        while self._kept and self.nbytes + size > self.limit:
            self._kept.popitem(last=False)
        made = torch.empty(shape, dtype=dtype, device=self.device)
        yield made
        self._kept[name] = made

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def alone(self, name: str) -> AbstractContextManager[Any]:
        return nullcontext()


class Shelf:
    """Store in a folder of memory-mapped safetensors files with a checksum in each header.

    A damaged file is removed and counts as absent, as does one of another user, which stays. Raises
    `OSError` if the disk is full or something is in the way.
    """

    rate: ClassVar[float] = 1e9  # roughly that of an SSD or the page cache

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._open: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        return sum(file.stat().st_size for file in self._files())

    def find(self, name: str) -> Tensor | None:
        path = self._path(name)
        try:
            if not is_trusted(path):
                return None
            os.utime(path)
            if name not in self._open:
                self._open[name] = _opened(path)
        except FileNotFoundError:
            # Another process removed the file, but the memory map is still valid.
            return self._open.get(name)
        except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
            tell("cache", f"The cached values in {path} are damaged and will be computed again.")
            path.unlink(missing_ok=True)
            return None
        return self._open[name]

    @contextmanager
    def making(self, name: str, shape: Shape, dtype: torch.dtype) -> Iterator[Tensor]:
        header = _header(shape, dtype, 0)
        size = len(header) + math.prod(shape) * dtype.itemsize
        self._make_room(size)
        _require_free(self._path(name))
        unfinished = self.folder / f".{name}.{os.getpid()}"
        unfinished.unlink(missing_ok=True)
        try:
            with unfinished.open("xb") as file:  # not through a link that someone put there
                _reserve(file.fileno(), size)
                file.write(header)
            content = np.memmap(unfinished, np.uint8, "r+", len(header))
            yield torch.from_numpy(content).view(dtype).view(shape)
            content.flush()
            with unfinished.open("r+b") as file:
                file.write(_header(shape, dtype, _checksum(content)))
            os.replace(unfinished, self._path(name))
            self._open.pop(name, None)
        finally:
            unfinished.unlink(missing_ok=True)

    def alone(self, name: str) -> AbstractContextManager[Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f".{name}.lock")  # released when its process dies

    def __contains__(self, name: str) -> bool:
        return name in self._open or self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _make_room(self, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob(".*"):
            with suppress(OSError):
                if time.time() - file.lstat().st_mtime > STALE and not is_foreign(file):
                    file.unlink()
        files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in self._files())
        used = sum(file_size for _, file_size, _ in files)
        for _, file_size, file in files:
            if used + size <= self.limit:
                break
            file.unlink(missing_ok=True)
            used -= file_size

    def _files(self) -> list[Path]:
        """Files of this user's; those of others in a shared folder are not for it to remove."""
        return [file for file in self.folder.glob("*.safetensors") if _is_file(file)]


def _is_file(path: Path) -> bool:
    try:
        return is_trusted(path) and not is_foreign(path)
    except OSError:  # removed meanwhile, or a link that leads nowhere
        return False


def _require_free(path: Path) -> None:
    """Raise `OSError` if something is in the way that is not replaced."""
    if os.path.lexists(path) and not _is_file(path):
        raise FileExistsError(errno.EEXIST, "in its place is no file of yours", str(path))


def _reserve(file: int, size: int) -> None:
    """Reserve disk space, so that a full disk raises here instead of a bus error on writing."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS has no posix_fallocate
        for at in range(0, size, CHUNK):
            os.write(file, bytes(min(CHUNK, size - at)))
        os.lseek(file, 0, os.SEEK_SET)


def _header(shape: Shape, dtype: torch.dtype, checksum: int) -> bytes:
    """Header of a safetensors file with one tensor; its length does not depend on the checksum."""
    size = math.prod(shape) * dtype.itemsize
    about = {
        "__metadata__": {"crc32": f"{checksum:08x}"},
        "values": {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [0, size]},
    }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _opened(path: Path) -> Tensor:
    """Memory-mapped tensor of a file; raises `ValueError` if its checksum does not match."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(min(length, 2**20)))
    values = about["values"]
    dtype = next(dtype for dtype, name in NAMES.items() if name == values["dtype"])
    content = np.memmap(path, np.uint8, "r", 8 + length)
    if f"{_checksum(content):08x}" != about["__metadata__"]["crc32"]:
        raise ValueError(f"{path} is damaged")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(content).view(dtype).view(values["shape"])


def _checksum(content: Any) -> int:
    checksum = 0
    for at in range(0, len(content), CHUNK):
        checksum = zlib.crc32(content[at : at + CHUNK], checksum)
    return checksum
