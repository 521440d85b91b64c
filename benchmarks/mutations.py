"""Mutations of files: of their bytes, of safetensors headers, of YAML and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import yaml

Mutation = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Flip some bits, mostly in the header, which no digest protects."""
    end = min(8 + int.from_bytes(content[:8], "little"), len(content))
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(end if draw.random() < 0.8 else len(content))
        damaged[at] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def moved(content: bytes, draw: random.Random) -> bytes:
    """Copy a piece to another place."""
    a, b, n = (draw.randrange(len(content)) for _ in range(3))
    n = n % 64 + 1
    return content[:b] + content[a : a + n] + content[b + draw.choice((0, n)) :]


def header_of(content: bytes) -> tuple[dict[str, object], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header: object, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


VALUES: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**63, 1e308, "", "x" * 10_000, "../../etc/passwd", "\0",
    "__import__('os').system('true')", [], {}, [[]], {"a": {"b": []}}, "frozen", "layer1.0",
)  # fmt: skip


def rewritten(content: bytes, draw: random.Random) -> bytes:
    """Replace a value somewhere in the header, or in the JSON inside it, by another."""
    header, rest = header_of(content)
    at = draw.choice(list(header))
    if at != "__metadata__" or draw.random() < 0.1:
        header[at if draw.random() < 0.7 else str(draw.choice(VALUES))] = draw.choice(VALUES)
        return with_header(header, rest)
    metadata: dict[str, str] = header["__metadata__"]  # type: ignore[assignment]
    key = draw.choice(list(metadata))
    try:
        metadata[key] = json.dumps(_changed(json.loads(metadata[key]), draw))
    except ValueError:  # plain text
        metadata[key] = str(draw.choice(VALUES))
    return with_header(header, rest)


def _changed(value: object, draw: random.Random) -> object:
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {**value, str(draw.choice(VALUES)): value[key]}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def lengthened(content: bytes, draw: random.Random) -> bytes:
    """Write a wrong length of the header."""
    length = draw.choice((0, 1, 2**20, 2**31, 2**62, 2**64 - 1, draw.randrange(2 * len(content))))
    return length.to_bytes(8, "little") + content[8:]


# text


SNIPPETS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\t", b"&a [*a]", b"*nowhere", b"<<: *a", b"---",
    b"!!python/name:os.system", b"!!python/object/apply:os.system [true]", b"!!binary x",
    b"2001-01-01", b"1e999", b".nan", b"-.inf", b"9" * 6000, b"0x" + b"f" * 40, b"~", b"null",
    b"[" * 500, b"{" * 500, b"- " * 300, b"(a+)+$", b"(" * 50, b"'", b'"', b"\x1b[31m",
    "\u202e".encode(), b"../../../../etc/passwd",
)  # fmt: skip
"""Pieces of text that readers of YAML, JSON and regular expressions may stumble over."""


def inserted(content: bytes, draw: random.Random) -> bytes:
    """Put a snippet somewhere, or in place of something."""
    at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:at] + draw.choice(SNIPPETS) + content[draw.choice((at, at, end)) :]


def revalued(content: bytes, draw: random.Random) -> bytes:
    """Replace a value somewhere in a mapping of YAML or JSON by another."""
    try:
        data = yaml.safe_load(content)
    except yaml.YAMLError:
        return content
    changed = _changed(data, draw)
    if draw.random() < 0.5:
        return json.dumps(changed, default=str).encode()
    return yaml.safe_dump(changed).encode()


TENSORS = (flipped, flipped, cut, moved, rewritten, rewritten, rewritten, lengthened)
BYTES = (flipped, cut, moved, inserted)
TEXT = (flipped, cut, moved, inserted, inserted, revalued, revalued, revalued)
