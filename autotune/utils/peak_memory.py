"""Peak resident memory of this process."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * maxrss_unit(sys.platform)


def maxrss_unit(platform: str) -> int:
    """Bytes in one unit of `ru_maxrss`: macOS counts bytes, Linux and the BSDs count KiB."""
    return 1 if platform == "darwin" else 1024
