"""Modules whose computation depends on their mode, as measured on a few examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autotune.training.prefix.observation import is_like, tolerance_of

NORMS = (nn.modules.batchnorm._NormBase,)
"""Layers that always depend on their mode; running them in training mode would update them."""


def mode_dependent(root: nn.Module, examples: Tensor) -> frozenset[str]:
    """Paths of modules that compute something different, or draw, in training mode.

    Every module that reads its mode is called a second time with the same input, in training mode
    with everything inside it in evaluation mode. Dropout with probability 0, or attention that
    passes on a dropout of 0, does not depend on its mode. `root` is in evaluation mode.
    """
    with recording_mode_reads(root) as readers, _recording_calls(root) as called:
        root(examples.clone())
    measure = _Measurement()
    norms = {path for path, module in root.named_modules() if isinstance(module, NORMS)}
    uncalled = {p for p, m in root.named_modules() if m not in called and _may_depend(m)}
    hooks = [
        hook for path in readers - norms for hook in measure.hooks(path, root.get_submodule(path))
    ]
    try:
        root(examples.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(measure.dependent | norms | uncalled)


@contextmanager
def _recording_calls(root: nn.Module) -> Iterator[set[nn.Module]]:
    """Modules that are called while the context is open."""
    called: set[nn.Module] = set()
    hooks = [m.register_forward_pre_hook(lambda m, _: called.add(m)) for m in root.modules()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _may_depend(module: nn.Module) -> bool:
    """Whether a module that evaluation mode does not call may depend on its mode.

    `nn.TransformerEncoderLayer` calls its attention and dropout in training mode alone.
    """
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return bool(module.p > 0)
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    is_layer = next(module.children(), None) is None
    of_torch = type(module).__module__.startswith("torch.nn")
    return isinstance(module, nn.RReLU) or (is_layer and not of_torch)


class _Measurement:
    def __init__(self) -> None:
        self.dependent: set[str] = set()
        self._inputs: list[Any] = []
        self._is_inside = False

    def hooks(self, path: str, module: nn.Module) -> list[Any]:
        """Hooks that keep the inputs of a module and call it again in training mode."""
        return [
            module.register_forward_pre_hook(self._keep, with_kwargs=True),
            module.register_forward_hook(partial(self._compare, path), with_kwargs=True),
        ]

    def _keep(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._is_inside:
            self._inputs.append(_copied((args, kwargs)))

    def _compare(self, path: str, module: nn.Module, _: Any, __: Any, output: Any) -> None:
        if self._is_inside:
            return
        inputs = self._inputs.pop()
        self._is_inside = True
        try:
            if inputs is None or _differs(module, inputs, output):
                self.dependent.add(path)
        finally:
            self._is_inside = False


def _copied(inputs: Any) -> Any:
    """Copies of inputs, which a module may change, such as a cache of keys; None if impossible."""
    try:
        return deepcopy(inputs)
    except Exception:  # objects of the network's own may raise anything
        return None


def _differs(module: nn.Module, inputs: tuple[Any, Any], output: Any) -> bool:
    """Whether training mode changes a module's output, draws random numbers, or fails."""
    with _generators_restored() as have_drawn:
        module.training = True
        try:
            other = module.forward(*inputs[0], **inputs[1])
        except Exception:  # the network's code may raise anything in training mode
            return True
        finally:
            module.training = False
        return have_drawn() or not _are_alike(output, other)


@contextmanager
def _generators_restored() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether random numbers were drawn since, and restores them."""
    states = random.getstate(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def have_drawn() -> bool:
        is_same = random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
        return not is_same or (gpu is not None and not torch.equal(torch.cuda.get_rng_state(), gpu))

    try:
        yield have_drawn
    finally:
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)


def _are_alike(output: Any, other: Any) -> bool:
    pairs = [[x for x in pytree.tree_leaves(o) if isinstance(x, Tensor)] for o in (output, other)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    tolerance = tolerance_of([*pairs[0], *pairs[1]])
    return all(a.shape == b.shape and is_like(a, b, tolerance) for a, b in zip(*pairs, strict=True))


@contextmanager
def recording_mode_reads(root: nn.Module) -> Iterator[set[str]]:
    """Paths of modules whose code reads their mode while the context is open."""
    readers: set[str] = set()
    classes = [(module, type(module)) for module in root.modules()]
    for path, module in root.named_modules():
        module.__class__ = _recording(type(module), partial(readers.add, path))
    try:
        yield readers
    finally:
        for module, original in classes:
            module.__class__ = original


def _recording(kind: type[nn.Module], record: Callable[[], None]) -> type[nn.Module]:
    """Subclass with the same name that calls `record` when its mode is read."""

    def mode(self: nn.Module) -> bool:
        record()
        return bool(self.__dict__["training"])

    def set_mode(self: nn.Module, value: bool) -> None:  # a slice of a ModuleList is a new module
        self.__dict__["training"] = value

    body = {"training": property(mode, set_mode), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), body)
