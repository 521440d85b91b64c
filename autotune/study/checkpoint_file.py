"""Checkpoints of running jobs as files, with a digest by which damage is noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.utils.events import warn
from autotune.utils.files import digest_of


def pack(checkpoint: bytes, note: Mapping[str, Any]) -> bytes:
    """Content of a file: a line of JSON with `note` and the digest, then the checkpoint."""
    body = json.dumps(note).encode() + b"\n" + checkpoint
    return json.dumps({"digest": digest_of(body)}).encode() + b"\n" + body


def unpack(content: bytes) -> tuple[dict[str, Any], bytes] | None:
    """`note` and checkpoint of a file that `pack` wrote; None if it is damaged."""
    line, _, body = content.partition(b"\n")
    try:
        digest = json.loads(line)["digest"]
        note, _, checkpoint = body.partition(b"\n")
        return (json.loads(note), checkpoint) if digest_of(body) == digest else None
    except (ValueError, KeyError, TypeError):
        return None


def read_checkpoint(file: Path, job: str) -> tuple[dict[str, Any], bytes] | None:
    """`note` and checkpoint of a job that was interrupted; None if there is none.

    One that is damaged is reported, as the job begins anew.
    """
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if (unpacked := unpack(content)) is None:
        warn(f"The checkpoint {file} is damaged, so {job} is trained again from the beginning.")
    return unpacked
