"""Swap a network between two states by exchanging only what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SwapTable = dict[Any, Any]
State = Mapping[nn.Module, tuple[type, list[tuple[SwapTable, SwapTable]]]]
"""Module → its class, and each of its dicts (`__dict__`, `_parameters`, …) with a copy of it."""

_IGNORED = frozenset({"training"})
"""Attributes that a swap leaves alone: the caller sets the modes."""


def state_of(network: nn.Module) -> State:
    """Current state of every module: class, parameters, buffers, children and hooks."""
    return {module: (type(module), _tables(module)) for module in network.modules()}


def _tables(module: nn.Module) -> list[tuple[SwapTable, SwapTable]]:
    attributes = vars(module)
    tables = [attributes, *(value for value in attributes.values() if isinstance(value, dict))]
    return [(table, dict(table)) for table in tables]


@dataclass(frozen=True, eq=False)
class Swap:
    """Difference between two states of some modules, before and after something was put on.

    A swap computes and copies nothing, so it takes microseconds per module; tensors are moved if
    the network is on another device by then.
    """

    classes: list[tuple[nn.Module, type, type]]
    tables: list[tuple[SwapTable, SwapTable, SwapTable]]
    """(table, content before, content after); values that did not change are `_SAME`."""

    @classmethod
    def between(cls, before: State, after: State) -> Swap:
        """Difference from one state to another, over the modules that both have."""
        classes, tables = [], []
        for module, (old, was) in before.items():
            if module not in after:
                continue
            new, now = after[module]
            if new is not old:
                classes.append((module, old, new))
            contents = {id(table): content for table, content in now}
            for table, content in was:
                changed = contents.get(id(table), {})
                if _differs(content, changed):
                    tables.append((table, *_changes(content, changed)))
        return cls(classes, tables)

    def put_on(self, device: torch.device) -> None:
        """Switch to the later state."""
        for module, _, later in self.classes:
            module.__class__ = later
        for table, old, new in self.tables:
            _fill(table, new, old, device)

    def take_off(self, device: torch.device) -> None:
        """Switch back to the earlier state."""
        for table, old, new in self.tables:
            _fill(table, old, new, device)
        for module, earlier, _ in self.classes:
            module.__class__ = earlier


_SAME: Any = object()


def _differs(old: SwapTable, new: SwapTable) -> bool:
    return list(old) != list(new) or any(
        new[key] is not value for key, value in old.items() if key not in _IGNORED
    )


def _changes(old: SwapTable, new: SwapTable) -> tuple[SwapTable, SwapTable]:
    def marked(table: SwapTable, other: SwapTable) -> SwapTable:
        same = {k for k in table if k in _IGNORED or (k in other and other[k] is table[k])}
        return {key: _SAME if key in same else value for key, value in table.items()}

    return marked(old, new), marked(new, old)


def _fill(table: SwapTable, content: SwapTable, other: SwapTable, device: torch.device) -> None:
    """Refill a table in the order of `content`; keys added since then stay, at the end."""
    before = dict(table)
    table.clear()
    for key, value in content.items():
        table[key] = before[key] if value is _SAME else _moved(value, device)
    for key in before.keys() - content.keys() - other.keys():
        table[key] = before[key]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, nn.Parameter):
        if value.device != device:
            value.data = value.data.to(device)
        return value
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device)
    return value.to(device) if isinstance(value, nn.Module) else value
