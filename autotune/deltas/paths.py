"""Deltas that add a path beside frozen modules, by forward hooks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.dataflow import Point
from autotune.deltas.base import Delta, cost_of_module
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost


class PathDelta(Delta):
    """A delta that adds a path beside frozen modules and leaves their weights alone.

    Built on forward hooks, so a gate of 0 gives the frozen module's own output.
    """

    mergeable = False
    on_path = True

    def __init__(self) -> None:
        super().__init__()
        self.path: nn.Module | None = None
        self._handles: list[Any] = []

    @abstractmethod
    def build(self, site: Site) -> nn.Module | None:
        """The new modules, float32 and at their start; None where the site has no place."""

    @abstractmethod
    def hook(self, site: Site) -> list[Any]:
        """Put `path` beside the site's modules; handles that take it off."""

    def built(self, site: Site) -> nn.Module | None:
        """The new modules with the network's dtype and device."""
        like = next(p for p in site.network.parameters() if p.is_floating_point())
        path = self.build(site)
        return path.to(like) if path is not None else None

    def changes(self, site: Site) -> list[Slot]:
        return []

    def count(self, site: Site) -> Cost:
        like = next(p for p in site.network.parameters() if p.is_floating_point())
        with torch.device("meta"):
            path = self.build(site)
        return cost_of_module(path.to(like.dtype)) if path is not None else Cost()

    def attach(self, site: Site) -> None:
        self.path = self.path or self.built(site)
        if self.path is not None:
            following = _carrying(self._follow(), IDLE)
            self._handles = [site.network.register_forward_pre_hook(following), *self.hook(site)]

    def detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _follow(self) -> Callable[..., None]:
        """Move to where the network now computes: the path is in none of its modules."""

        def follow(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            assert self.path is not None
            at = next(self.path.parameters()).device
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].device != at:
                self.path.to(arguments[0].device)

        return follow


@dataclass(frozen=True, eq=False)
class Touch:
    """What a delta does to a tensor that a module takes first, or gives (the first of several)."""

    change: Callable[[Tensor], Tensor | None]
    is_input: bool
    only_looks: bool
    """Whether the tensor stays as it is."""

    def __call__(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return (self(value[0]), *value[1:])
        changed = self.change(value)
        return value if self.only_looks else changed

    def put_on(self, module: nn.Module) -> Any:
        """As a hook, which carries this touch with it; a handle that takes it off."""
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
"""What a hook carries that does nothing to tensors."""


def touch_of(hook: Any) -> Touch | None:
    """What a hook carries; None for those that are not ours, or that do more than touch."""
    touch: Touch | None = getattr(hook, "touch", None)
    return touch


def _carrying(hook: Callable[..., Any], touch: Touch) -> Callable[..., Any]:
    hook.touch = touch  # type: ignore[attr-defined]
    return hook


def change_at(site: Site, point: Point, change: Callable[[Tensor], Tensor]) -> Any:
    """The tensor at a point becomes `change` of it; a handle that undoes it."""
    return _touched(site, point, Touch(change, point.is_input, only_looks=False))


def look_at(site: Site, point: Point, look: Callable[[Tensor], None]) -> Any:
    """`look` sees the tensor at a point before anything changes it in place; a handle."""
    return _touched(site, point, Touch(look, point.is_input, only_looks=True))


def _touched(site: Site, point: Point, touch: Touch) -> Any:
    return touch.put_on(site.network.get_submodule(point.path))
