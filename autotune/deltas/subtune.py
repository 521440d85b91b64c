"""SubTuning: weights of a unit train from their pretrained values."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autotune.budget import Cost
from autotune.deltas.base import Delta, Site, Slot, cost_of
from autotune.errors import PlanError

_WHAT: dict[str, Callable[[Slot], bool]] = {
    "all": lambda slot: True,
    "biases": Slot.is_bias,
    "norms": Slot.is_norm,
}


class Subtune(Delta):
    """Train all weights of a unit, its biases, or its normalisation layers.

    The frozen parameters are exchanged for trainable copies, so the backbone is never written.
    Normalisation statistics stay frozen.
    """

    paper = "SubTuning (arXiv 2302.06354); biases: BitFit (arXiv 2106.10199)"

    def __init__(self, what: str) -> None:
        super().__init__()
        if what not in _WHAT:
            raise PlanError(f"subtune trains one of {', '.join(_WHAT)}, got {what!r}.")
        self.what = what
        self.parts = nn.ParameterDict()
        self._frozen: list[tuple[nn.Module, str, nn.Parameter]] = []

    def changes(self, site: Site) -> list[Slot]:
        return list(filter(_WHAT[self.what], site.slots))

    def count(self, site: Site) -> Cost:
        chosen = [slot.tensor for slot in self.changes(site)]
        return sum((cost_of(t.numel(), t.dtype) for t in chosen), Cost())

    def attach(self, site: Site) -> None:
        for slot in self.changes(site):
            copy = nn.Parameter(slot.tensor.detach().clone())
            self.parts[slot.name.replace(".", "/")] = copy
            for module, attribute in slot.owners:
                frozen = module._parameters[attribute]
                assert frozen is not None
                self._frozen.append((module, attribute, frozen))
                module._parameters[attribute] = copy

    def detach(self) -> None:
        while self._frozen:
            module, attribute, frozen = self._frozen.pop()
            module._parameters[attribute] = frozen
