"""Deltas that change weights through `torch.nn.utils.parametrize`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotune.backbones.precision import LOW, trained_dtype, widened, without_autocast
from autotune.deltas.base import Delta, is_off, scaled
from autotune.deltas.computed import Undo, stacked
from autotune.deltas.site import Site, Slot


class WeightDelta(Delta):
    """A delta that writes some of a unit's tensors as a function of the frozen ones.

    Built on `torch.nn.utils.parametrize`; tied weights share one parametrization. A weight that the
    network itself computes (weight norm, pruning, …) is changed as the layer uses it. Several
    deltas on one tensor are detached in the reverse order of attaching.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self._undo: list[Undo] = []

    @abstractmethod
    def part(self, slot: Slot) -> nn.Module:
        """Module that computes the change of a slot's frozen tensor, zero at the start.

        If the tensor is float16 or bfloat16, the module is moved to float32 and gets a float32 copy
        of the tensor.
        """

    def attach(self, site: Site) -> None:
        for slot in self.changes(site):
            part = self.part(slot)
            if (dtype := slot.tensor.dtype) in LOW:
                part.to(trained_dtype(dtype))
            self.parts[slot.name.replace(".", "/")] = part
            self._undo += _changed(slot, _Gated(self, part))

    def detach(self) -> None:
        while self._undo:
            self._undo.pop()()


class _Gated(nn.Module):
    """W + gate · change(W), computed in float32 and rounded if W is of low precision."""

    def __init__(self, delta: WeightDelta, part: nn.Module) -> None:
        super().__init__()
        self.part, self._delta = part, (delta,)  # a tuple, so that it is no submodule

    def forward(self, tensor: Tensor) -> Tensor:
        gate = self._delta[0].gate
        if is_off(gate):
            return tensor
        with without_autocast(tensor):
            wide = widened(tensor)
            return (wide + scaled(self.part(wide), gate)).to(tensor.dtype)


def part_alone(module: nn.Module, attribute: str) -> nn.Module | None:
    """Part that changes a tensor, if it is the only one and its gate is 1; None otherwise."""
    if not parametrize.is_parametrized(module, attribute):
        return None
    stack: Any = module.parametrizations
    (first, *others) = stack[attribute]
    if others or not isinstance(first, _Gated) or first._delta[0].gate != 1:
        return None
    return first.part


def _changed(slot: Slot, part: nn.Module) -> list[Undo]:
    """Change a slot's tensor; a computed one is a constant meanwhile, as its sources are frozen."""
    if slot.is_computed():
        return [computed.replace(part) for computed in slot.computed]
    return [stacked(module, attribute, part) for module, attribute in slot.owners]
