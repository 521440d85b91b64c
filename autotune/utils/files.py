"""Atomic writing of files, and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from platformdirs import user_cache_path

from autotune.utils.timings import spent


def cache_folder() -> Path:
    """Folder for files that can be made again: `$AUTOTUNE_CACHE`, else the user's cache folder."""
    folder = os.environ.get("AUTOTUNE_CACHE")
    return Path(folder) if folder else user_cache_path("autotune")


@spent("storage")
def write_whole(path: Path, content: bytes | str) -> None:
    """Write a temporary file and rename it, so that `path` never holds a part of the content."""
    data = content.encode() if isinstance(content, str) else content
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
