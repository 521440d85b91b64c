"""Head factory: a function of the user that makes heads, where the network's own is not copied."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from torch import nn

from autotune.backbones.copying import copied
from autotune.errors import BackboneError, first_line
from autotune.utils.user_code import imported_function

HeadFactory = Callable[..., nn.Module]
"""Function of the number of classes, or of the former head and the number of classes.

It returns a new, untrained head, which takes what the former head takes.
"""


def load_head_factory(name: str) -> HeadFactory:
    """Function of a name `MODULE-or-FILE:FUNCTION`; `BackboneError` if it cannot be imported."""
    return imported_function(name, what="head factory")


def made_head(factory: HeadFactory, old: nn.Module, classes: int) -> nn.Module:
    """Head that a factory makes, with the device and dtype of the old one, which stays as it is.

    Raises `BackboneError` if the factory raises, or returns something that cannot be trained.
    """
    arguments = (classes,) if _takes_one(factory) else (copied(old), classes)
    try:
        head = factory(*arguments)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise BackboneError(
            f"A head factory must return a head for {classes} classes, it raised "
            f"{type(error).__name__}: {first_line(error)}. Call it directly to see more."
        ) from error
    if not isinstance(head, nn.Module) or not any(True for _ in head.parameters()):
        raise BackboneError(
            "A head factory must return a torch.nn.Module with parameters, it returned a "
            f"{type(head).__name__}{' without any' if isinstance(head, nn.Module) else ''}."
        )
    like = next(old.parameters())
    # copied: a factory may return the same module each time, and each head is trained
    return copied(head).to(device=like.device, dtype=like.dtype).requires_grad_(True)


def _takes_one(factory: HeadFactory) -> bool:
    """Whether a factory takes the number of classes alone."""
    try:
        parameters = signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [p for p in parameters if _is_positional(p) and p.default is Parameter.empty]
    return len(required) == 1


def _is_positional(parameter: Any) -> bool:
    return parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
