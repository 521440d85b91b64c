"""Trackers that receive the events of a search. A sink is one file and one line of `SINKS`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from autotune.errors import AutotuneError, ConfigError, DependencyError, first_line
from autotune.utils.distribution import install_command
from autotune.utils.events import Callback, listening
from autotune.utils.registry import Registry

SINKS = Registry(
    "sink",
    {
        "json": "autotune.run.trackers.json_lines:json_lines",
        "tensorboard": "autotune.run.trackers.tensorboard:tensorboard",
        "mlflow": "autotune.run.trackers.mlflow:mlflow",
        "wandb": "autotune.run.trackers.wandb:wandb",
    },
)
"""Name → context manager that takes a destination and yields a callback for events."""


@contextmanager
def told_to(sinks: Sequence[str]) -> Iterator[None]:
    """Send events to every sink, written `NAME:WHERE`, until the block ends.

    Raises `UnknownName` for an unknown name, `DependencyError` if the package of a sink is missing,
    and `ConfigError` if `WHERE` is missing or cannot be opened.
    """
    with ExitStack() as stack:
        named = [_split(text) for text in sinks]
        callbacks = [stack.enter_context(_opened(name, where)) for name, where in named]
        stack.enter_context(listening(callbacks))
        yield


@contextmanager
def _opened(name: str, where: str) -> Iterator[Callback]:
    with ExitStack() as stack:
        try:
            callback = stack.enter_context(SINKS.load(name)(where))
        except ImportError as error:
            raise DependencyError(
                f"The sink {name} needs the package {name}, which is not installed: "
                f"{install_command(name)}."
            ) from error
        except AutotuneError:
            raise
        except Exception as error:  # the tracker's library may raise anything
            first = first_line(error)
            raise ConfigError(
                f"The sink {name} must open, {where!r} does not ({first})."
            ) from error
        yield callback


def _split(text: str) -> tuple[str, str]:
    name, _, where = text.partition(":")
    SINKS.check(name)
    if not where:
        raise ConfigError(
            f"A sink is written NAME:WHERE, got {text!r}. Examples: tensorboard:runs/board, "
            "mlflow:http://localhost:5000, wandb:PROJECT or json:events.jsonl."
        )
    return name, where
