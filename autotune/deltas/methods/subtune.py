"""SubTuning: train weights of a unit from their pretrained values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from autotune.backbones.precision import widened
from autotune.deltas.base import Delta, check_word, cost_of, stored_cost
from autotune.deltas.computed import stacked
from autotune.deltas.kernels import Shift
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost

_WHAT: dict[str, Callable[[Slot], bool]] = {
    "all": lambda slot: True,
    "biases": Slot.is_bias,
    "norms": Slot.is_norm,
}
_BN = ("frozen", "adapt")


class Subtune(Delta):
    """Train all weights of a unit, its biases, or its normalisation layers.

    The frozen parameters are exchanged for trainable copies, so the backbone is never written.
    Of a weight that the network computes (weight norm, pruning, …), its parameters train.
    Copies of float16 and bfloat16 parameters are in float32, and the layer reads them rounded.
    Normalisation statistics stay frozen; with `bn="adapt"`, copies of them follow the training
    batches and are stored with the delta.
    """

    paper = "SubTuning (arXiv 2302.06354), BitFit (arXiv 2106.10199)"
    what = "all weights of the unit, its `biases` or its `norms`"
    where = "every layer"

    def __init__(self, what: str, bn: str = "frozen") -> None:
        super().__init__()
        self.chosen = _WHAT[check_word("subtune", "what", what, tuple(_WHAT))]
        self.bn = check_word("subtune", "bn", bn, _BN)
        self.parts = nn.ParameterDict()
        self.statistics = nn.Module()
        self._undo: list[Callable[[], None]] = []

    def gated(self) -> Delta:
        return _Shifted(self)

    def retrains(self) -> bool:
        return self.chosen is _WHAT["all"]

    def changes(self, site: Site) -> list[Slot]:
        return list(filter(self.chosen, site.slots))

    def count(self, site: Site) -> Cost:
        chosen = [slot.tensor for slot in self._trained(site)]
        buffers = [b for _, _, b in self._followed(site)] if chosen else []
        trained = [cost_of(t.numel(), t.dtype) for t in chosen]
        return sum([*trained, *(stored_cost(b.numel(), b.dtype) for b in buffers)], Cost())

    def adapts(self, site: Site) -> list[nn.Module]:
        layers = [m for m in site.modules if isinstance(m, nn.modules.batchnorm._NormBase)]
        return [m for m in layers if m.running_mean is not None] if self.bn == "adapt" else []

    def attach(self, site: Site) -> None:
        for name, layer, buffer in self._followed(site):
            key = name.replace(".", "/")
            copy = buffer.clone()
            self.statistics.register_buffer(key, copy)
            self._exchange(layer._buffers, name.rpartition(".")[2], copy)
        for slot in self._trained(site):
            parameter = nn.Parameter(widened(slot.tensor.detach()).clone())
            self.parts[slot.name.replace(".", "/")] = parameter
            for module, attribute in slot.owners:
                if parameter.dtype != slot.frozen.dtype:
                    self._undo.append(stacked(module, attribute, _Rounded(parameter)))
                else:
                    self._exchange(module._parameters, attribute, parameter)

    def _trained(self, site: Site) -> list[Slot]:
        """Parameters that train; a computed weight trains those that it is computed from."""
        return [parameter for slot in self.changes(site) for parameter in slot.parameters()]

    def detach(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _exchange(self, tensors: Any, name: str, new: Tensor) -> None:
        assert tensors[name] is not None
        self._undo.append(partial(tensors.__setitem__, name, tensors[name]))
        tensors[name] = new

    def _followed(self, site: Site) -> list[tuple[str, nn.Module, Tensor]]:
        """(name, layer, buffer) of each running statistic that adapts."""
        paths = {module: path for path, module in site.network.named_modules()}
        return [
            (f"{paths[layer]}.{name}", layer, buffer)
            for layer in self.adapts(site)
            for name, buffer in layer.named_buffers(recurse=False)
        ]


class _Rounded(nn.Module):
    """A trained copy of a tensor in place of the tensor, rounded to its dtype."""

    def __init__(self, copy: nn.Parameter) -> None:
        super().__init__()
        self.copy = copy

    def forward(self, tensor: Tensor) -> Tensor:
        return self.copy.to(tensor.dtype)


class _Shifted(WeightDelta):
    """Subtune as frozen weights plus a shift behind a gate; statistics stay frozen."""

    def __init__(self, subtune: Subtune) -> None:
        super().__init__()
        self._subtune = (subtune,)  # a tuple, so that it is no submodule

    def changes(self, site: Site) -> list[Slot]:
        return self._subtune[0].changes(site)

    def count(self, site: Site) -> Cost:
        return self._subtune[0].count(site)

    def part(self, slot: Slot) -> nn.Module:
        return Shift(slot.tensor)
