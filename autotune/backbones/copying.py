"""Copies of networks whose layers keep computed tensors or functions as attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn


def copied(network: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Deep copy of a network.

    Weight norm by hooks and pruning keep a computed tensor as a plain attribute, which
    `copy.deepcopy` refuses; the copy holds its value, and its next forward pass computes it again.
    Functions, such as hooks and a `forward` that was replaced, read the modules and tensors of the
    copy where they read those of the network.
    """
    memo = {} if memo is None else memo
    with _detached(network):
        twin = copy.deepcopy(network, memo)
    parts = {id(m): memo[id(m)] for m in network.modules() if id(m) in memo}
    tensors = (*network.parameters(), *network.buffers())
    parts.update({id(t): memo[id(t)] for t in tensors if id(t) in memo})
    for module in twin.modules():
        for name, value in [*vars(module).items()]:
            if (bound := _rebound(value, parts)) is not value:
                vars(module)[name] = bound
        for hooks in _hooks(module):
            hooks.update({key: _rebound(hook, parts) for key, hook in hooks.items()})
    return twin


def _hooks(module: nn.Module) -> list[dict[int, Any]]:
    """Mappings with the hooks of a module, forward and backward."""
    names = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return [vars(module)[name] for name in names]


def _rebound(value: Any, parts: dict[int, Any]) -> Any:
    """A function that reads other parts in place of its network's; other values as they are."""
    if isinstance(value, (nn.Module, Tensor)):
        return value
    if isinstance(value, MethodType):
        owner = parts.get(id(value.__self__), value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if type(value) is partial:
        arguments = [_read(each, parts) for each in (value.func, *value.args)]
        keywords = {name: _read(each, parts) for name, each in value.keywords.items()}
        return partial(arguments[0], *arguments[1:], **keywords)
    if isinstance(value, FunctionType):
        return _rebound_function(value, parts)
    return value


def _read(value: Any, parts: dict[int, Any]) -> Any:
    """What a function reads instead of a value."""
    return parts[id(value)] if id(value) in parts else _rebound(value, parts)


def _rebound_function(function: FunctionType, parts: dict[int, Any]) -> FunctionType:
    parts[id(function)] = function  # it may read itself
    before = [_contents(cell) for cell in function.__closure__ or ()]
    after = [_read(value, parts) for value in before]
    defaults = tuple(_read(value, parts) for value in function.__defaults__ or ())
    pairs = zip((*before, *(function.__defaults__ or ())), (*after, *defaults), strict=True)
    if all(a is b for a, b in pairs):
        return function
    cells = tuple(
        cell if a is b and a is not function else CellType(b)
        for cell, a, b in zip(function.__closure__ or (), before, after, strict=True)
    )
    code, name = function.__code__, function.__name__
    bound = FunctionType(code, function.__globals__, name, defaults or None, cells)
    for cell in cells:
        if _contents(cell) is function:
            cell.cell_contents = bound
    bound.__kwdefaults__, bound.__qualname__ = function.__kwdefaults__, function.__qualname__
    vars(bound).update(vars(function))
    parts[id(function)] = bound
    return bound


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


@contextmanager
def _detached(network: nn.Module) -> Iterator[None]:
    """Context in which plain attributes that are computed tensors have no autograd graph."""
    computed = [
        (vars(module), name, value)
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        for attributes, name, value in computed:
            attributes[name] = value.detach()
        yield
    finally:
        for attributes, name, value in computed:
            attributes[name] = value
