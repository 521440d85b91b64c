"""Mutations of files: of bytes, of text, and of what checksums and digests would protect.

Whoever makes a hostile file computes its digests anew, so some mutations do that, too.
"""

from __future__ import annotations

import io
import json
import random
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable

import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor

from autotune.backbones.base import fingerprint
from autotune.study.checkpoint_file import pack, unpack

Mutation = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Flip some bits, mostly in the header, which no digest protects."""
    end = min(8 + int.from_bytes(content[:8], "little"), len(content))  # in text: all of it
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


def retensored(content: bytes, draw: random.Random) -> bytes:
    """Replace, rename or add a tensor; the digest in the header is that of the new tensors."""
    header, _ = header_of(content)
    metadata: dict[str, str] = dict(header.get("__metadata__", {}))  # type: ignore[call-overload]
    tensors = load(content)
    name = draw.choice(list(tensors))
    other = draw.choice((name, name, name, f"{name}.more", "head/weight", "delta/x/y/z", "buffer/"))
    tensors[other] = _replaced(tensors[name], draw)
    if other != name and draw.random() < 0.5:
        del tensors[name]
    if "digest" in metadata:
        metadata["digest"] = json.dumps(fingerprint(tensors))
    return save(tensors, metadata)


DTYPES = (
    torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


def _replaced(tensor: Tensor, draw: random.Random) -> Tensor:
    """Tensor of another shape, another dtype, or with values that are not finite."""
    kind = draw.randrange(6)
    if kind == 0:
        return tensor.to(draw.choice(DTYPES), copy=True).contiguous()
    if kind == 1:
        return torch.full_like(
            tensor, draw.choice((0.0, 1e30)) if tensor.is_floating_point() else 0
        )
    if kind == 2 and tensor.is_floating_point():
        return torch.full_like(tensor, draw.choice((float("nan"), float("inf"))))
    shapes = ((), (0,), (1,), (3, 5), tuple(tensor.shape[::-1]), (*tensor.shape, 1), (2, 2, 2, 2))
    return torch.ones(draw.choice(shapes), dtype=tensor.dtype)


# text


BOMB = b"\na: &a [" + b"x," * 9 + b"x]\n" + b"".join(
    b"%c: &%c [" % (name, name) + b"*%c," % (name - 1) * 9 + b"]\n" for name in b"bcdefghijk"
)  # fmt: skip
"""Aliases that stand for 10^10 values."""

SNIPPETS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\t", b"&a [*a]", b"*nowhere", b"<<: *a", b"---",
    b"!!python/name:os.system", b"!!python/object/apply:os.system [true]", b"!!binary x",
    b"2001-01-01", b"1e999", b".nan", b"-.inf", b"9" * 6000, b"0x" + b"f" * 40, b"~", b"null",
    b"[" * 500, b"{" * 500, b"- " * 300, b"(a+)+$", b"(" * 50, b"'", b'"', b"\x1b[31m",
    "\u202e".encode(), b"../../../../etc/passwd", BOMB, b"!!python/module:antigravity",
    b"python:canary.py:make", b"import this", b"{}", b"[]", b"\n", b" " * 5000, b"a: " * 100,
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


def relined(content: bytes, draw: random.Random) -> bytes:
    """Change a value of one line of JSON, or leave out or repeat the line."""
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    kind = draw.random()
    if kind < 0.2:
        return b"".join((*lines[:at], *lines[at + 1 :]))
    if kind < 0.3:
        return b"".join((*lines[:at], lines[at], *lines[at:]))
    try:
        line = json.dumps(_changed(json.loads(lines[at]), draw)).encode() + b"\n"
    except ValueError:
        return content
    return b"".join((*lines[:at], line, *lines[at + 1 :]))


# files with checksums or digests


def resealed(mutation: Mutation) -> Mutation:
    """Mutation of the tensors' part of a checkpoint file, whose digest is computed anew."""

    def change(content: bytes, draw: random.Random) -> bytes:
        unpacked = unpack(content)
        assert unpacked is not None
        return pack(mutation(unpacked[1], draw), unpacked[0])

    return change


def rezipped(mutation: Mutation) -> Mutation:
    """Mutation of one member of a zip file, which is compressed with a right checksum."""

    def change(content: bytes, draw: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = draw.choice(list(members))
        members[name] = mutation(members[name], draw)
        if draw.random() < 0.1:
            members[draw.choice(("../out.npy", "/tmp/out.npy", "x_val.npy", "a/.."))] = members[
                name
            ]
        stream = io.BytesIO()
        method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, member in members.items():
                archive.writestr(name, member)
        return stream.getvalue()

    return change


NPY_SHAPES = (
    "()", "(0,)", "(30,)", "(30, 0)", "(2, 2)", "(10**12,)", "(1000000000000,)", "(-1,)",
    "(30, -4)", "(4294967296, 4294967296)", "(0, 9223372036854775807)", "(1,) * 65", "None",
    "(30, 4.0)", "(" + "1, " * 70 + ")", "(True, 120)", "[30, 4]",
)  # fmt: skip
NPY_DTYPES = (
    "'<f4'", "'<f8'", "'|O'", "'<M8[ns]'", "'<U30'", "'|S0'", "'|V0'", "'<c8'", "'|b1'", "'<f2'",
    "'<i8'", "'<U1000000'", "[('a', '<f4')]", "[('a', '<f4', (2, 2)), ('b', '|O')]", "None", "''",
    "'float32, (1000,1000)f8'", "__import__('os')", "'>f4'", "'<u8'", "'<g'",
)  # fmt: skip


def redeclared(content: bytes, draw: random.Random) -> bytes:
    """Declare another shape, dtype or version of an `.npy` file."""
    start = 10
    end = start + int.from_bytes(content[8:10], "little")
    header = content[start:end].decode("latin-1")
    shape = header[header.index("'shape': ") + 9 : header.rindex(", }")]
    dtype = header[header.index("'descr': ") + 9 : header.index(", 'fortran")]
    if draw.random() < 0.7:
        header = header.replace(shape, draw.choice(NPY_SHAPES))
    if draw.random() < 0.5:
        header = header.replace(dtype, draw.choice(NPY_DTYPES))
    if draw.random() < 0.1:
        header = header.replace("False", draw.choice(("True", "None", "1")))
    if draw.random() < 0.1:
        header = draw.choice(("(" * 9000, "{" * 500, " " * 60_000, "'" * 30, "1" * 9000))
    version = draw.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\xff"))
    form = "<I" if version[0] > 1 else "<H"
    length = struct.pack(form, len(header))
    return content[:6] + version + length + header.encode("latin-1") + content[end:]


SIZES = (0, 1, 7, 255, 4096, 20_000, 65_535, 2**31 - 1, 2**32 - 1)


def resized(content: bytes, draw: random.Random) -> bytes:
    """Declare another size of an image; in a PNG with a right checksum."""
    kind, data = _image_kind(content), bytearray(content)
    width, height = draw.choice(SIZES), draw.choice(SIZES)
    if kind == "png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "bmp":
        data[18:26] = struct.pack("<II", width, height)
    elif kind == "gif":
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif kind == "jpg" and (at := content.find(b"\xff\xc0")) >= 0:
        data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif kind == "tif":
        for tag in (256, 257):
            at = content.find(struct.pack("<HHI", tag, 3, 1))
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, draw.choice((width, height)))
    elif kind == "webp":
        data[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    return bytes(data)


def _image_kind(content: bytes) -> str:
    starts = {b"\x89PNG": "png", b"BM": "bmp", b"GIF8": "gif", b"\xff\xd8": "jpg", b"II*": "tif"}
    starts[b"RIFF"] = "webp"
    return next((kind for start, kind in starts.items() if content.startswith(start)), "")


def tampered(content: bytes, draw: random.Random) -> bytes:
    """Change a value in a SQLite database, in JSON if it is some, or the type of what is stored."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content[:18] + b"\1\1" + content[20:])  # memory has no write-ahead file
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    table = draw.choice(
        [*tables, *(name for name in tables if "attributes" in name), "study_user_attributes"]
    )
    rows = connection.execute(f"SELECT rowid, * FROM {table}")
    columns = [column[0] for column in rows.description[1:]]
    if all_rows := rows.fetchall():
        rowid, *values = draw.choice(all_rows)
        at = (
            columns.index("value_json") if "value_json" in columns else draw.randrange(len(columns))
        )
        _update(connection, table, columns[at], rowid, _tampered(values[at], draw), draw)
    return connection.serialize()


def _tampered(value: object, draw: random.Random) -> object:
    try:
        return json.dumps(_changed(json.loads(value), draw))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return draw.choice((None, -1, 2**62, "", "x", b"\xff", 1e308, "NaN", "COMPLETE", "RUNNING"))


def _update(
    connection: sqlite3.Connection,
    table: str,
    column: str,
    rowid: int,
    value: object,
    draw: random.Random,
) -> None:
    try:
        if draw.random() < 0.1:
            connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        elif draw.random() < 0.03:
            connection.execute(f"DROP TABLE {table}")
        else:
            statement = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
            connection.execute(statement, (value, rowid))
    except sqlite3.Error:
        pass  # a constraint: the database stays as it is
    connection.commit()


TENSORS = (
    *(flipped, flipped, cut, moved, rewritten, rewritten, rewritten, lengthened),
    *(retensored, retensored, retensored),
)
BYTES = (flipped, cut, moved, inserted)
TEXT = (flipped, cut, moved, inserted, inserted, revalued, revalued, revalued)
LINES = (flipped, cut, inserted, relined, relined)
IMAGE = (*BYTES, resized)
NPY = (*BYTES, redeclared, redeclared, redeclared)
NPZ = (*BYTES, *map(rezipped, NPY))
DATABASE = (flipped, cut, moved, tampered, tampered, tampered, tampered, tampered)
CHECKPOINT = (flipped, cut, inserted, *map(resealed, TENSORS))
ZIPPED = (*BYTES, *map(rezipped, BYTES))
