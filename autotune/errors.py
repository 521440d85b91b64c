"""Every error that autotune raises on purpose: one line with rule, value and way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AutotuneError(Exception):
    """Base class of all errors of autotune; `exit_code` is the command line's exit status."""

    exit_code = 2


class BudgetError(AutotuneError, ValueError):
    """A budget that cannot be parsed or that is too small for any choice."""


class PlanError(AutotuneError, ValueError):
    """A plan, choice or label that does not fit its problem."""


class MergeError(AutotuneError, ValueError):
    """A delta that cannot be folded into the weights, or not exactly enough."""

    exit_code = 1


class SpaceError(AutotuneError, ValueError):
    """A search space that cannot be read or does not fit the backbone."""


class ConfigError(AutotuneError, ValueError):
    """A setting that is unknown, malformed or contradicts another."""


class UnknownName(AutotuneError, LookupError):
    """A name that is in no table."""


class NotBuilt(AutotuneError, NotImplementedError):
    """A name that is reserved for something that this version cannot do yet."""


class BackboneError(AutotuneError, ValueError):
    """A backbone that cannot be built, read or used."""


class TaskError(AutotuneError, ValueError):
    """Data that cannot be read, split or passed to the backbone."""


class PolicyError(AutotuneError, ValueError):
    """A policy file that cannot be read."""


class ArtifactError(AutotuneError, ValueError):
    """A delta file that is damaged, foreign or made for another backbone."""


class ExportError(AutotuneError, ValueError):
    """A network that cannot be exported, or whose export computes something else."""

    exit_code = 1


class RunError(AutotuneError, ValueError):
    """A run folder or storage that cannot be used as requested."""


class StudyExists(RunError):
    """A storage that holds a study already, where another one was to begin."""


class ServeError(AutotuneError, ValueError):
    """A request or a task that the server cannot accept."""


class Busy(ServeError):
    """A request that arrives while the server's queue is full."""


class NoTask(ServeError, LookupError):
    """A request for a task that is not served."""


class LeaseError(AutotuneError, RuntimeError):
    """Another driver owns the study."""


class DependencyError(AutotuneError, ImportError):
    """A library that is missing or does not match another one's version."""

    exit_code = 1


class TrialError(AutotuneError, RuntimeError):
    """A trial that failed while it ran."""

    exit_code = 1


class OutOfMemory(TrialError):
    """A trial that does not fit into memory, even with its batches split."""


class WorkerError(AutotuneError, RuntimeError):
    """A worker process that died or could not start."""

    exit_code = 1


class Interrupted(AutotuneError):
    """The user ended the search; finished work is kept."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One-line message about an unknown `name` of some `kind`, with the closest known name."""
    names = sorted(known)
    close = get_close_matches(brief(name), names[:MOST_COMPARED], n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    listed = ", ".join(names[:MOST_NAMED]) + more
    return f"There is no {kind} named {brief(repr(name))}.{hint} Known: {listed}."


MOST_NAMED, MOST_COMPARED = 100, 1000
"""Most known names that a message lists, and with which an unknown one is compared.

A server may have ten thousand tasks; a comparison with one takes some microseconds.
"""


LONGEST = 200
"""Longest value, in characters, that a message repeats in full."""


def brief(text: str) -> str:
    """The text, or its beginning and its end if it is too long for a message."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 60]} … {text[-40:]}"


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its type if the message is empty."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Last line of an error's message: of a formatted traceback, the line that names the cause."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return (str(error).strip() or type(error).__name__).splitlines()
