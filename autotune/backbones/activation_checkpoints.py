"""Activation checkpoints inside a network, which autotune runs in torch's recommended way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch.utils.checkpoint as torch_checkpoint


class _NotReentrant:
    """Takes the place of the function behind `checkpoint(…, use_reentrant=True)`."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return torch_checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Context in which no checkpoint is re-entrant, whatever the network's code asks for.

    Re-entrant checkpoints give the same values, but they drop the gradients of weights if their
    input needs none, which is the rule behind frozen layers, and refuse `torch.autograd.grad`.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


# the network's own code calls torch's function by any name, so only what that calls can be replaced
_lock, _contexts, _replaced = Lock(), [0], list[Any]()


def _enter() -> None:
    with _lock:
        if not _contexts[0]:
            _replaced.append(torch_checkpoint.CheckpointFunction)
            torch_checkpoint.CheckpointFunction = _NotReentrant  # type: ignore[assignment,misc]
        _contexts[0] += 1


def _leave() -> None:
    with _lock:
        _contexts[0] -= 1
        if not _contexts[0]:
            torch_checkpoint.CheckpointFunction = _replaced.pop()  # type: ignore[misc]
