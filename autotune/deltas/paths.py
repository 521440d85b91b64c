"""Deltas that add a path in parallel to frozen modules, through forward hooks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.dataflow import Point
from autotune.backbones.precision import LOW, TUNABLE, trained_dtype, widened
from autotune.deltas.base import Delta, cost_of_module
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost


class PathDelta(Delta):
    """A delta that adds a path in parallel to frozen modules and leaves their weights alone.

    Built on forward hooks, so a gate of 0 returns the frozen module's own output.
    """

    mergeable = False
    on_path = True

    def __init__(self) -> None:
        super().__init__()
        self.path: nn.Module | None = None
        self._handles: list[Any] = []

    @abstractmethod
    def build(self, site: Site) -> nn.Module | None:
        """New modules in float32, initialised; None if the site has no place for them."""

    @abstractmethod
    def hook(self, site: Site) -> list[Any]:
        """Register hooks that add `path` to the site's modules; return their handles."""

    def built(self, site: Site) -> nn.Module | None:
        """New modules on the network's device, in its dtype or, if that is low, in float32."""
        like = _first_tunable(site.network)
        path = self.build(site)
        return path.to(like.device, trained_dtype(like.dtype)) if path is not None else None

    def changes(self, site: Site) -> list[Slot]:
        return []

    def count(self, site: Site) -> Cost:
        dtype = trained_dtype(_first_tunable(site.network).dtype)
        with torch.device("meta"):
            path = self.build(site)
        return cost_of_module(path.to(dtype)) if path is not None else Cost()

    def attach(self, site: Site) -> None:
        self.path = self.path or self.built(site)
        if self.path is not None:
            following = _carrying(self._follow(), IDLE)
            self._handles = [site.network.register_forward_pre_hook(following), *self.hook(site)]

    def detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _follow(self) -> Callable[..., None]:
        """Hook that moves the path to the input's device.

        The path is no submodule of the network, so `network.to(device)` does not move it.
        """

        def follow(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            assert self.path is not None
            device = next(self.path.parameters()).device
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].device != device:
                self.path.to(arguments[0].device)

        return follow


@dataclass(frozen=True, eq=False)
class Touch:
    """Change or observation of a module's first input, or of its output (the first of a tuple)."""

    change: Callable[[Tensor], Tensor | None]
    is_input: bool
    only_looks: bool
    """Whether `change` only observes the tensor, its result being ignored."""

    def __call__(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return (self(value[0]), *value[1:])
        changed = self.change(value)
        return value if self.only_looks else changed

    def put_on(self, module: nn.Module) -> Any:
        """Register a hook that carries this touch as an attribute; return its handle."""
        if self.is_input:
            return module.register_forward_pre_hook(self._hook_before(), with_kwargs=True)

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            return self(output)

        return module.register_forward_hook(_carrying(after, self))

    def _hook_before(self) -> Callable[..., Any]:
        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (self(args[0]), *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, {**kwargs, first: self(kwargs[first])}

        return _carrying(before, self)


IDLE = Touch(lambda x: None, is_input=True, only_looks=True)
"""Touch of a hook that leaves tensors alone."""


def touch_of(hook: Any) -> Touch | None:
    """Touch that a hook carries; None for hooks of others and for ours that do more than that."""
    touch: Touch | None = getattr(hook, "touch", None)
    return touch


def _carrying(hook: Callable[..., Any], touch: Touch) -> Callable[..., Any]:
    hook.touch = touch  # type: ignore[attr-defined]
    return hook


def change_at(site: Site, point: Point, change: Callable[[Tensor], Tensor]) -> Any:
    """Replace the tensor at a point by `change` of it; return a handle that undoes it.

    If the tensor is of low precision, `change` gets and returns float32.
    """
    return _touched(site, point, Touch(_in_float32(change), point.is_input, False))


def look_at(site: Site, point: Point, look: Callable[[Tensor], None]) -> Any:
    """Call `look` with the tensor at a point, before it is changed in place; return a handle.

    If the tensor is of low precision, `look` gets it in float32.
    """
    return _touched(site, point, Touch(_in_float32(look), point.is_input, True))


def _in_float32(change: Any) -> Callable[[Tensor], Tensor | None]:
    """`change` on a float32 copy, its result rounded, of values of low precision.

    Under autocast values stay as they are, since operators then convert them themselves.
    """

    def wide(x: Tensor) -> Tensor | None:
        if x.dtype not in LOW or torch.is_autocast_enabled(x.device.type):
            return change(x)  # type: ignore[no-any-return]
        changed = change(widened(x))
        return None if changed is None else changed.to(x.dtype)

    return wide


def _first_tunable(network: nn.Module) -> Tensor:
    return next(p for p in network.parameters() if p.dtype in TUNABLE)


def _touched(site: Site, point: Point, touch: Touch) -> Any:
    return touch.put_on(site.network.get_submodule(point.path))
