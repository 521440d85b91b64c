"""Every error that autotune raises on purpose: one line with rule, value and way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AutotuneError(Exception):
    """Parent of all errors of autotune; `exit_code` is what the command line ends with."""

    exit_code = 2


class BudgetError(AutotuneError, ValueError):
    """A budget that cannot be read, or that cannot hold what it must."""


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
    """Data that cannot be read, split or shown to the backbone."""


class PolicyError(AutotuneError, ValueError):
    """A policy file that cannot be read."""


class ArtifactError(AutotuneError, ValueError):
    """A delta file that is damaged, foreign or made for another backbone."""


class ExportError(AutotuneError, ValueError):
    """A tuned network that has no such form, or whose form does not compute the same."""

    exit_code = 1


class RunError(AutotuneError, ValueError):
    """A run folder or storage that cannot be used as asked."""


class ServeError(AutotuneError, ValueError):
    """A request, or a task for a server, that it cannot take."""


class Busy(ServeError):
    """More requests than may wait."""


class NoTask(ServeError, LookupError):
    """A task that is not served."""


class LeaseError(AutotuneError, RuntimeError):
    """Another driver owns the study."""


class DependencyError(AutotuneError, ImportError):
    """A library that is missing or does not match its companion."""

    exit_code = 1


class TrialError(AutotuneError, RuntimeError):
    """A trial that failed while it ran."""

    exit_code = 1


class OutOfMemory(TrialError):
    """A trial that does not fit into memory, not even with its batches in parts."""


class WorkerError(AutotuneError, RuntimeError):
    """A worker process that died or could not start."""

    exit_code = 1


class Interrupted(AutotuneError):
    """The user ended the search; what was finished is kept."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a `name` that no table of `kind` has, with the nearest known name."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no {kind} named {name!r}.{hint} Known: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its type where the message is empty."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Last line of an error's message, where a traceback names the cause."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return (str(error).strip() or type(error).__name__).splitlines()
