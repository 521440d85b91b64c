"""Values that a merge writes into a network, and how it is undone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autotune.deltas.computed import Computed, Undo
from autotune.deltas.site import Site, Slot


@dataclass(frozen=True, eq=False)
class NewValue:
    """Value of one tensor of a module, to be written once the deltas are detached."""

    module: nn.Module
    name: str
    value: Tensor
    computed: Computed | None = None
    """Set if the module computes the tensor from parameters, which are written instead."""

    def write(self) -> Undo:
        """Write it, and return a function that undoes it; `MergeError` if that is impossible."""
        if self.computed is not None:
            undo = self.computed.saved()
            self.computed.assign(self.value)
            return undo
        tensor = getattr(self.module, self.name).detach()
        before = tensor.clone()
        tensor.copy_(self.value)

        def undo_copy() -> None:
            tensor.copy_(before)

        return undo_copy


def new_values(sites: Iterable[Site]) -> list[NewValue]:
    """Present values of all tensors at the sites, with what deltas do to them."""
    sites = [*sites]
    weights = [value for site in sites for slot in site.slots for value in _of_slot(slot)]
    layers = [layer for site in sites for layer in site.modules]
    buffers = [
        NewValue(layer, name, buffer.detach().clone())
        for layer in layers
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    return [*weights, *buffers]


def write_all(values: Sequence[NewValue]) -> Undo:
    """Write all values; return a function that undoes it. Raises `MergeError`, nothing written."""
    undos: list[Undo] = []

    def undo() -> None:
        while undos:
            undos.pop()()

    try:
        with torch.no_grad():
            for value in values:
                undos.append(value.write())
    except BaseException:
        undo()
        raise
    return undo


def _of_slot(slot: Slot) -> list[NewValue]:
    if slot.computed and not slot.is_computed():  # a delta has replaced the computation
        return [
            NewValue(module, name, getattr(module, name).detach().clone(), computed)
            for (module, name), computed in zip(slot.owners, slot.computed, strict=True)
        ]
    parameters = [parameter.owners[0] for parameter in slot.parameters()]
    return [NewValue(m, n, getattr(m, n).detach().clone()) for m, n in parameters]
