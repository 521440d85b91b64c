"""Everything that a network's own code may write, and how it was before."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has; hooks, flags and modes are no matter of a forward pass."""

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)

_MOST_NESTED = 4
"""Depth to which containers in attributes are followed."""


class Snapshot:
    """Values of what a forward pass may write, to be restored.

    These are all buffers (counters, running means, the vectors of spectral norm), weights of
    embeddings with `max_norm`, which torch renormalises in place, and plain attributes: numbers,
    tensors, and lists and mappings of them, such as a cache of keys. A tensor that the network's
    code replaced by another one is put back, too. Modules in `without`, and their tensors wherever
    they are, may change; so may plain attributes unless `has_attributes`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        without: Iterable[nn.Module] = (),
        has_attributes: bool = True,
    ) -> None:
        outside = set(without)
        modules = [module for module in network.modules() if module not in outside]
        others = {id(t) for module in outside for t in (*module.parameters(), *module.buffers())}
        self._tensors = [
            (owner, name, tensor, tensor.detach().clone())
            for owner, name, tensor in _written(modules)
            if not tensor.is_meta and id(tensor) not in others
        ]
        plain = [(vars(m), _plain(m)) for m in modules if has_attributes]
        self._attributes = [(known, values, _undo(values)) for known, values in plain]

    def restore(self) -> None:
        """Restore the values; further calls do nothing."""
        self.rewind()
        self._tensors, self._attributes = [], []

    @torch.no_grad()
    def rewind(self) -> None:
        """Restore the values, to be restored again later."""
        for owner, name, tensor, value in self._tensors:
            # not by `_version`: batch norm writes its statistics without counting it
            if not torch.equal(tensor, value):
                tensor.copy_(value)
            if owner.get(name) is not tensor:
                owner[name] = tensor
        for attributes, before, undo in self._attributes:
            for name in attributes.keys() - before.keys() - _OF_MODULES:
                del attributes[name]
            attributes.update(before)
            undo()


def _written(modules: Iterable[nn.Module]) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module._buffers, name, buffer  # type: ignore[misc]
        if getattr(module, "max_norm", None) is not None:
            for name, weight in module._parameters.items():
                if weight is not None:
                    yield module._parameters, name, weight  # type: ignore[misc]


def _plain(module: nn.Module) -> dict[str, Any]:
    """Attributes that a module has beside those of every module."""
    return {name: value for name, value in vars(module).items() if name not in _OF_MODULES}


def _undo(attributes: dict[str, Any]) -> Callable[[], None]:
    """Function that gives tensors and containers in attributes their present contents again."""
    steps: list[Callable[[], None]] = []
    for value in attributes.values():
        _note(value, steps, _MOST_NESTED)

    def undo() -> None:
        for step in steps:
            step()

    return undo


def _note(value: Any, steps: list[Callable[[], None]], depth: int) -> None:
    if type(value) is Tensor:
        if value.is_leaf and not (value.is_meta or value.is_inference()):
            steps.append(_tensor_step(value))
    elif type(value) in _CONTAINERS and depth:
        steps.append(_container_step(value))
        for item in value.values() if isinstance(value, dict) else value:
            _note(item, steps, depth - 1)


def _tensor_step(tensor: Tensor) -> Callable[[], None]:
    value = tensor.detach().clone()

    def step() -> None:
        if not torch.equal(tensor, value):
            tensor.copy_(value)

    return step


def _container_step(container: Any) -> Callable[[], None]:
    before = copy(container)

    def step() -> None:
        if not _is_same(container, before):
            container.clear()
            is_ordered = isinstance(container, (list, deque))
            (container.extend if is_ordered else container.update)(before)

    return step


def _is_same(container: Any, before: Any) -> bool:
    """Whether two containers hold the same objects; tensors cannot be compared by `==`."""
    items, former = _items(container), _items(before)
    return len(items) == len(former) and all(map(is_, items, former))


def _items(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return [*container]
