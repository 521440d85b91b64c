"""`len(x)` of a tensor in a network's own code, for traces that hold for batches of any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from torch import Tensor, fx, nn

_NAME = "len"


def length(x: Any) -> Any:
    """`len(x)`; for a tensor in a trace it is a symbol, where `len` would be a fixed number."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", length, (x,), {})
    return x.shape[0] if isinstance(x, Tensor) and x.ndim else len(x)


@contextmanager
def symbolic_length(network: nn.Module) -> Iterator[None]:
    """Context in which `len` is `length` in the files that define the network's modules."""
    scopes = {id(scope): scope for module in network.modules() for scope in _scopes(module)}
    changed = [scope for scope in scopes.values() if _NAME not in scope]
    for scope in changed:
        scope[_NAME] = length
    try:
        yield
    finally:
        for scope in changed:
            del scope[_NAME]


def _scopes(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Global variables of the code of a module's class and its bases, without those of torch."""
    for kind in type(module).__mro__:
        if kind is not object and kind.__module__.partition(".")[0] != "torch":
            functions = [f for f in vars(kind).values() if isinstance(f, FunctionType)]
            yield from (function.__globals__ for function in functions)
