"""Files that a reader never sees half of."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from platformdirs import user_cache_path

from autotune.utils.timings import spent


def cache_folder() -> Path:
    """`$AUTOTUNE_CACHE`, or the user's own folder for what can be made again."""
    folder = os.environ.get("AUTOTUNE_CACHE")
    return Path(folder) if folder else user_cache_path("autotune")


@spent("storage")
def write_whole(path: Path, content: bytes | str) -> None:
    """Write beside and rename, so that `path` holds the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as beside:
        try:
            beside.write(data)
            beside.flush()
            os.fsync(beside.fileno())
            os.chmod(beside.name, 0o644)
            os.replace(beside.name, path)
        except BaseException:
            os.unlink(beside.name)
            raise
