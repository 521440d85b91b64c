"""What a file says of itself; nothing of it is executed, no backbone is loaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from autotune.artifact import read_header
from autotune.errors import ArtifactError
from autotune.export.module import TOLD

MOST = 100_000_000
"""Bytes of text that are read of a file."""


def inspect_file(path: Path | str) -> dict[str, Any]:
    """The header of a delta, or what an export tells of itself; of a run folder that of `best/`.

    Raises `ArtifactError` for any other file.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "best" / "delta.safetensors"
    if not file.is_file():
        raise ArtifactError(f"A file must exist to be inspected, {str(file)!r} does not.")
    try:
        return _READERS.get(file.suffix, _safetensors)(file)
    except ArtifactError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"A file to be inspected must be a delta or an export of autotune, {file} is not "
            f"({type(error).__name__}: {error})."
        ) from error
    except (SafetensorError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{file} is damaged ({error}). Take it from its source again."
        ) from error


def _safetensors(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as stored:
        told = dict(stored.metadata() or {})
        shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
    if "export" not in told:
        return read_header(file)
    return {**{key: json.loads(value) for key, value in told.items()}, "tensors": shapes}


def _mask(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MOST:
        raise ValueError(f"it has more than {MOST:,} bytes")
    found = json.loads(file.read_text())
    if "units" not in found or "fingerprint" not in found:
        raise ValueError("it is no mask")
    return {"export": "mask", **found}


def _program(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"extra/{TOLD}")]
        if not names:
            raise ValueError("it tells nothing of where it comes from")
        name = names[0]
        if archive.getinfo(name).file_size > MOST:
            raise ValueError(f"it has more than {MOST:,} bytes")
        return json.loads(archive.read(name))  # type: ignore[no-any-return]


def _onnx(file: Path) -> dict[str, Any]:
    from autotune.export.onnx import told

    return told(file)


_READERS = {".json": _mask, ".pt2": _program, ".onnx": _onnx}
