"""Weights that a layer computes from its parameters: weight norm, spectral norm, pruning, …"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.weight_hooks import HOOKS, tensor_of
from autotune.deltas.surgery import difference
from autotune.errors import MergeError

Undo = Callable[[], None]

ROUNDING = {torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Largest error of a weight that is computed again, relative to the largest, by dtype."""

_ROUNDING = 2e-6
"""The same in float32: 16 times its precision, as norms of long rows round several times."""


class Computed(ABC):
    """A layer's tensor that the network's own code computes from parameters in every forward."""

    def __init__(self, path: str, layer: nn.Module, attribute: str) -> None:
        self.layer, self.attribute = layer, attribute
        self.name = f"{path}.{attribute}" if path else attribute

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of what computes it, such as `WeightNorm`."""

    @abstractmethod
    def sources(self) -> list[tuple[nn.Module, str]]:
        """Parameters that it is computed from: their modules and names in them."""

    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """Modules whose mode it depends on."""

    @abstractmethod
    def is_active(self) -> bool:
        """Whether it is still computed, and not replaced by a constant."""

    @abstractmethod
    def value(self) -> Tensor:
        """Its value in evaluation mode, without a gradient."""

    @abstractmethod
    def replace(self, change: nn.Module) -> Undo:
        """Compute `change` of its present value instead, as of a frozen parameter."""

    @abstractmethod
    def settle(self, value: Tensor) -> None:
        """Replace it by a frozen parameter for good."""

    @abstractmethod
    def _invert(self, value: Tensor) -> None:
        """Write parameters from which `value` is computed, if there are any."""

    def assign(self, value: Tensor) -> None:
        """Write the parameters so that `value` is computed from them.

        Raises `MergeError`, with nothing changed, if that is impossible.
        """
        undo = self.saved()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self._invert(value)
            again = self.value()
            is_exact = again.shape == value.shape and _is_close(again, value)
        except (RuntimeError, ValueError, TypeError):
            is_exact = False
        if not is_exact:
            undo()
            raise MergeError(
                f"A merge keeps the parametrizations of a network, but {self.kind} of {self.name} "
                "cannot compute the tuned weight. Export as module or onnx, or keep the delta file."
            )

    def saved(self) -> Undo:
        """Save what `assign` may write; return a function that restores it."""
        tensors = [getattr(module, name) for module, name in self.sources()]
        before = [(tensor, tensor.detach().clone()) for tensor in tensors]
        snapshot = Snapshot(self.layer)

        @torch.no_grad()
        def undo() -> None:
            snapshot.restore()
            for tensor, content in before:
                tensor.copy_(content)

        return undo


class Parametrized(Computed):
    """Tensor with a parametrization of `torch.nn.utils.parametrize`."""

    def __init__(self, path: str, layer: nn.Module, attribute: str) -> None:
        super().__init__(path, layer, attribute)
        self._stack: Any = _stacks(layer)[attribute]

    @property
    def kind(self) -> str:
        return " and ".join(type(part).__name__.lstrip("_") for part in self._stack)

    def sources(self) -> list[tuple[nn.Module, str]]:
        return [
            (module, name)
            for module in self._stack.modules()
            for name, _ in module.named_parameters(recurse=False)
        ]

    def modules(self) -> list[nn.Module]:
        return list(self._stack.modules())

    def is_active(self) -> bool:
        return _stacks(self.layer).get(self.attribute) is self._stack

    def value(self) -> Tensor:
        with evaluating(self._stack):
            value: Tensor = self._stack()
        return value.detach()

    def replace(self, change: nn.Module) -> Undo:
        stacks = _stacks(self.layer)
        frozen = nn.Parameter(self.value().clone(), requires_grad=False)
        stacks[self.attribute] = parametrize.ParametrizationList([change], frozen, unsafe=True)

        def undo() -> None:
            stacks[self.attribute] = self._stack

        return undo

    def settle(self, value: Tensor) -> None:
        layer = self.layer
        stacks = _stacks(layer)
        del stacks[self.attribute]
        _unshare(layer)
        delattr(type(layer), self.attribute)
        layer._parameters[self.attribute] = nn.Parameter(value, requires_grad=False)
        if not stacks:
            del layer._modules["parametrizations"]
            layer.__class__ = type(layer).__bases__[0]

    def _invert(self, value: Tensor) -> None:
        originals: Any = value
        for part in reversed(self._stack):
            if not hasattr(part, "right_inverse"):
                raise NotImplementedError(f"{type(part).__name__} has no right_inverse")
            before, originals = originals, part.right_inverse(originals)
        first = self._stack[0]
        if isinstance(first, parametrizations._WeightNorm):
            self._stack.original0.copy_(originals[0])
            _keep_directions(self._stack.original1, before, first.dim)
        elif self._stack.is_tensor:
            self._stack.original.copy_(originals)
        else:
            for i, tensor in enumerate(originals):
                getattr(self._stack, f"original{i}").copy_(tensor)


class Hooked(Computed):
    """Tensor that a hook sets before each forward: earlier weight and spectral norm, pruning."""

    def __init__(self, path: str, layer: nn.Module, key: int, hook: Any) -> None:
        super().__init__(path, layer, tensor_of(hook))
        self._key, self._hook = key, hook

    @property
    def kind(self) -> str:
        return type(self._hook).__name__

    def sources(self) -> list[tuple[nn.Module, str]]:
        names = [f"{self.attribute}{end}" for end in ("_g", "_v", "_orig")]
        return [(self.layer, name) for name in names if name in self.layer._parameters]

    def modules(self) -> list[nn.Module]:
        return [self.layer] if isinstance(self._hook, SpectralNorm) else []

    def is_active(self) -> bool:
        return self.layer._forward_pre_hooks.get(self._key) is self._hook

    @torch.no_grad()
    def value(self) -> Tensor:
        if isinstance(self._hook, BasePruningMethod):
            value: Tensor = self._hook.apply_mask(self.layer)
        elif isinstance(self._hook, SpectralNorm):
            value = self._hook.compute_weight(self.layer, do_power_iteration=False)
        else:
            value = self._hook.compute_weight(self.layer)
        return value.detach()

    def replace(self, change: nn.Module) -> Undo:
        undo = self._stopped(self.value().clone())
        undo_change = stacked(self.layer, self.attribute, change)

        def both() -> None:
            undo_change()
            undo()

        return both

    def settle(self, value: Tensor) -> None:
        self._stopped(value)

    def _stopped(self, value: Tensor) -> Undo:
        """Take the hook off, and hold `value` as a parameter; return a function that undoes it."""
        layer, hooks = self.layer, dict(self.layer._forward_pre_hooks)
        attribute = vars(layer).pop(self.attribute)
        del layer._forward_pre_hooks[self._key]
        layer._parameters[self.attribute] = nn.Parameter(value, requires_grad=False)

        def undo() -> None:
            del layer._parameters[self.attribute]
            vars(layer)[self.attribute] = attribute
            now = dict(layer._forward_pre_hooks)
            layer._forward_pre_hooks.clear()
            kept = {k: h for k, h in hooks.items() if k in now or k == self._key}
            layer._forward_pre_hooks.update({**kept, **now})

        return undo

    def _invert(self, value: Tensor) -> None:
        layer, name = self.layer, self.attribute
        if isinstance(self._hook, WeightNorm):
            direction = getattr(layer, f"{name}_v")
            getattr(layer, f"{name}_g").copy_(torch.norm_except_dim(value, 2, self._hook.dim))
            _keep_directions(direction, value, self._hook.dim)
        elif isinstance(self._hook, BasePruningMethod):
            original, mask = getattr(layer, f"{name}_orig"), getattr(layer, f"{name}_mask")
            original.copy_(torch.where(mask != 0, value, original))
        else:
            getattr(layer, f"{name}_orig").copy_(value)
        vars(layer)[name] = self.value()


def computed_in(network: nn.Module) -> list[Computed]:
    """All computed tensors of a network, in the order of its modules."""
    return [tensor for path, layer in network.named_modules() for tensor in _of(path, layer)]


def parametrizing(network: nn.Module) -> set[nn.Module]:
    """Modules that compute weights: in training mode, spectral norm would change its vectors."""
    return {module for tensor in computed_in(network) for module in tensor.modules()}


def settle(network: nn.Module) -> None:
    """Turn all tensors that layers or deltas compute into plain, frozen parameters."""
    tensors = computed_in(network)
    # all values before any change, as weights may be tied; exporters want them contiguous
    values = [tensor.value().clone(memory_format=torch.contiguous_format) for tensor in tensors]
    for tensor, value in zip(tensors, values, strict=True):
        tensor.settle(value)


@contextmanager
def constant(network: nn.Module) -> Iterator[Mapping[str, nn.Parameter]]:
    """Context in which computed tensors are frozen parameters, which it maps by name."""
    with ExitStack() as stack:
        constants = {}
        for tensor in computed_in(network):
            stack.callback(tensor.replace(nn.Identity()))
            frozen = _stacks(tensor.layer)[tensor.attribute].original
            constants[tensor.name] = frozen
        yield constants


def stacked(module: nn.Module, attribute: str, part: nn.Module) -> Undo:
    """Put a parametrization on a tensor, after those that it has; return what undoes it."""
    order, kind = tuple(module._parameters), type(module)
    if parametrize.is_parametrized(module) and not parametrize.is_parametrized(module, attribute):
        _unshare(module)
    parametrize.register_parametrization(module, attribute, part)

    def undo() -> None:
        stack = _stacks(module)[attribute]
        if len(stack) > 1:
            del stack[-1]
            return
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        # the parameter comes back as the last one: restore the order of registration
        module._parameters.update({k: module._parameters.pop(k) for k in order})
        module.__class__ = kind

    return undo


def _of(path: str, layer: nn.Module) -> Iterator[Computed]:
    for attribute in _stacks(layer):
        yield Parametrized(path, layer, attribute)
    for key, hook in layer._forward_pre_hooks.items():
        if isinstance(hook, HOOKS):
            yield Hooked(path, layer, key, hook)


def _stacks(layer: nn.Module) -> Any:
    """Name of a tensor → its parametrizations."""
    if not parametrize.is_parametrized(layer):
        return {}
    stacks: Any = layer.parametrizations
    return stacks._modules


def _unshare(layer: nn.Module) -> None:
    """Give a parametrized layer a class of its own.

    The properties of parametrized tensors belong to the class, which deep copies share.
    """
    kind = type(layer)
    layer.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _keep_directions(direction: Tensor, value: Tensor, dim: int) -> None:
    """Write the directions of weight norm, but not where `value` is zero and has none."""
    direction.copy_(torch.where(torch.norm_except_dim(value, 2, dim) != 0, value, direction))


def _is_close(tensor: Tensor, expected: Tensor) -> bool:
    return difference(tensor, expected) <= ROUNDING.get(expected.dtype, _ROUNDING)
