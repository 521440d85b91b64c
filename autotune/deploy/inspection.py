"""What a file says of itself; nothing of it is executed, no backbone is loaded."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from autotune.deltas.artifact import ARTIFACT_FORMAT, read_header
from autotune.deploy.export.module import TOLD
from autotune.errors import ArtifactError

MOST = 100_000_000
"""Bytes of text that are read of a file."""


def inspect_file(path: Path | str) -> dict[str, Any]:
    """The header of a delta, or what an export tells of itself; of a run folder that of `best/`.

    Raises `ArtifactError` for any other file.
    """
    file = Path(path)
    if (file / "adapter_config.json").is_file():
        return inspect_adapter(file)
    if file.is_dir():
        file = file / "best" / "delta.safetensors"
    if not file.is_file():
        raise ArtifactError(f"A file must exist to be inspected, {str(file)!r} does not.")
    try:
        found = _READERS.get(file.suffix, _safetensors)(file)
        if not isinstance(found, dict) or found.get("format") != ARTIFACT_FORMAT:
            raise ValueError(f"its format is not {ARTIFACT_FORMAT}")
    except ArtifactError:
        raise
    except _DAMAGED as error:
        raise ArtifactError(
            f"A file to be inspected must be a delta or an export of autotune, {file} is not "
            f"({type(error).__name__}: {error})."
        ) from error
    return dict(sorted(found.items()))


_DAMAGED = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


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
    from autotune.deploy.export.onnx import told

    return told(file)


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter of PEFT, and each tensor's shape."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", "pt") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
        return {"export": "peft", **config, "tensors": shapes}
    except _DAMAGED as error:
        raise ArtifactError(f"{folder} is no adapter of PEFT ({error}).") from error


_READERS = {".json": _mask, ".pt2": _program, ".onnx": _onnx}
