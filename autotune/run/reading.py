"""One error for everything that may be wrong with a run folder or a file from others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autotune.errors import AutotuneError, RunError, brief, first_line
from autotune.utils.filesystems import is_full


@contextmanager
def reading(run: str) -> Iterator[None]:
    """Context of what only looks at `run`, a folder or a file that may come from others.

    Raises `RunError` for whatever cannot be read; its cause says where.
    """
    try:
        yield
    except (AutotuneError, BrokenPipeError):
        raise
    except _UNREADABLE as error:
        if is_full(error):  # the output could not be written
            raise
        raise RunError(
            f"{run!r} cannot be read ({type(error).__name__}: {brief(first_line(error))}), so it "
            "is damaged, or another version wrote it. Restore it from a copy."
        ) from error


_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
