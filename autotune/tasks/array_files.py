"""Reading of `.npy` and `.npz` files, whose headers are compared with the files' sizes first."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from autotune.errors import TaskError, first_line

_DAMAGE = (
    *(ValueError, OSError, EOFError, AttributeError, TypeError, RuntimeError, MemoryError),
    *(OverflowError, LookupError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error),
)
"""Errors of NumPy and zipfile for damaged files."""

Arrays = dict[str, NDArray[Any]]

_LAST_CHARACTER = 0x10FFFF
"""Largest code of a character. NumPy reads others, which Python cannot turn into text."""

_MOST_COMPRESSED = 1032
"""Largest ratio that deflate reaches, in zip files."""

_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_npz(path: Path, wanted: Callable[[str], bool]) -> tuple[Arrays, list[str]]:
    """Arrays of a file, and the names of those that are not wanted; nothing is unpickled.

    Raises `TaskError` for a file that is damaged, or declares more values than it can hold.
    """
    with _described("An npz: task must hold plain arrays", path), path.open("rb") as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise ValueError("it is an .npy file with one array")
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            names = [name for name in stored.files if wanted(name)]
            for name in names:
                _check_member(stored.zip, name)
            arrays = {name: _readable(stored[name], name) for name in names}
            return arrays, [name for name in stored.files if name not in arrays]


def read_npy(path: Path) -> NDArray[Any]:
    """Array of an `.npy` file; raises `TaskError` like `read_npz`."""
    with _described("An .npy file must contain an array without objects", path):
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        return _readable(array)


@contextmanager
def _described(rule: str, path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise TaskError(
            f"{rule}, {str(path)!r} does not ({first_line(error)}). Save it with numpy, without "
            "object arrays."
        ) from error


def _check_member(archive: zipfile.ZipFile, name: str) -> None:
    """Compare an array's header with the size of its member, before anything is allocated."""
    members = {info.filename: info for info in archive.infolist()}
    info = members.get(f"{name}.npy") or members[name]
    if info.file_size > _MOST_COMPRESSED * (info.compress_size + 1):
        raise ValueError(f"{name} has a size that its {info.compress_size:,} bytes cannot hold")
    with archive.open(info) as file:
        _check_header(file, info.file_size, name)


def _check_header(file: IO[bytes], size: int, name: str = "it") -> None:
    """Raise `ValueError` if a header declares more bytes than its file has, or than fit memory."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} has the format {version}, which only object arrays need")
    shape, _, dtype = _HEADERS[version](file)
    n_bytes = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and n_bytes > size:
        raise ValueError(f"{name} declares {n_bytes:,} bytes, the file has {size:,}")
    if n_bytes > (memory := _memory()):
        raise ValueError(f"{name} has {n_bytes:,} bytes, this machine has {memory:,} of memory")


def _readable(array: NDArray[Any], name: str = "it") -> NDArray[Any]:
    """The array; raises `ValueError` for text whose characters Unicode does not have."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder}u4")
        if (codes > _LAST_CHARACTER).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
            raise ValueError(f"{name} has characters that are not Unicode")
    return array


def _memory() -> int:
    """Bytes of memory of this machine; unlimited where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
