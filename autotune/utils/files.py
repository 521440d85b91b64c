"""Atomic writing of files, and the cache folder."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from pathlib import Path
from tempfile import NamedTemporaryFile

from platformdirs import user_cache_path

from autotune.utils.timings import spent


def cache_folder() -> Path:
    """Folder for files that can be made again: `$AUTOTUNE_CACHE`, else the user's cache folder."""
    folder = os.environ.get("AUTOTUNE_CACHE")
    return Path(folder) if folder else user_cache_path("autotune")


def is_trusted(path: Path) -> bool:
    """Whether a path is a file of this user's own, or root's, that can be read without waiting.

    Others may write into a shared cache folder, and a pipe would be waited for. Raises
    `FileNotFoundError` if there is nothing.
    """
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and not _is_foreign(status)


def is_foreign(path: Path) -> bool:
    """Whether a path is another user's, who may not want it replaced or removed."""
    try:
        return _is_foreign(path.lstat())
    except FileNotFoundError:
        return False


def _is_foreign(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and status.st_uid not in (0, os.geteuid())


def digest_of(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_new(path: Path, content: str) -> bool:
    """Write a file that must not exist; return False, with nothing changed, if it does.

    Of several processes that write it at the same time, one succeeds.
    """
    whole = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    write_whole(whole, content)
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _write_exclusively(path, content)
    finally:
        whole.unlink()
    return True


def _write_exclusively(path: Path, content: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@spent("storage")
def write_whole(path: Path, content: bytes | str, *, makes_folder: bool = True) -> None:
    """Write a temporary file and rename it, so that `path` never holds a part of the content.

    Without `makes_folder`, raises `FileNotFoundError` if its folder does not exist.
    """
    data = content.encode() if isinstance(content, str) else content
    if makes_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is created for its owner alone
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
