"""Inspection of delta files and exports without executing them or loading a backbone."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from autotune.deltas.artifact import ARTIFACT_FORMAT, read_header
from autotune.deploy.export.module import PROVENANCE_FILE
from autotune.errors import ArtifactError

MOST = 100_000_000
"""Largest text that is read from a file, in bytes. Bounds memory; real headers are far smaller."""


def inspect_file(path: Path | str) -> dict[str, Any]:
    """Header of a delta file, or metadata of an export; for a run folder, that of `best/`.

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
        header = _READERS.get(file.suffix, _safetensors)(file)
        if not isinstance(header, dict) or header.get("format") != ARTIFACT_FORMAT:
            raise ValueError(f"its format is not {ARTIFACT_FORMAT}")
    except ArtifactError:
        raise
    except _DAMAGED as error:
        raise ArtifactError(
            f"A file to be inspected must be a delta or an export of autotune, {file} is not "
            f"({type(error).__name__}: {error})."
        ) from error
    return dict(sorted(header.items()))


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
        metadata = dict(stored.metadata() or {})
        shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
    if "export" not in metadata:
        return read_header(file)
    return {**{key: json.loads(value) for key, value in metadata.items()}, "tensors": shapes}


def _mask(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MOST:
        raise ValueError(f"it has more than {MOST:,} bytes")
    mask = json.loads(file.read_text())
    if "units" not in mask or "fingerprint" not in mask:
        raise ValueError("it is not a mask")
    return {"export": "mask", **mask}


def _program(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"extra/{PROVENANCE_FILE}")]
        if not names:
            raise ValueError("it has no metadata of autotune")
        name = names[0]
        if archive.getinfo(name).file_size > MOST:
            raise ValueError(f"it has more than {MOST:,} bytes")
        return json.loads(archive.read(name))  # type: ignore[no-any-return]


def _onnx(file: Path) -> dict[str, Any]:
    from autotune.deploy.export.onnx import read_provenance

    return read_provenance(file)


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """Configuration of a PEFT adapter and the shape of each tensor."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", "pt") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
        return {"export": "peft", **config, "tensors": shapes}
    except _DAMAGED as error:
        raise ArtifactError(f"{folder} is not a PEFT adapter ({error}).") from error


_READERS = {".json": _mask, ".pt2": _program, ".onnx": _onnx}
