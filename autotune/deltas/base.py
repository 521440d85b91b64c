"""The contract of every delta, and helpers that check options and count costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from autotune.backbones.precision import trained_dtype
from autotune.deltas.nested import Nested
from autotune.deltas.site import Site, Slot
from autotune.errors import PlanError
from autotune.problem.budget import Cost
from autotune.problem.plan import Method, Option

Gate = float | Tensor


class Evidence(Protocol):
    """Facts about training data and the frozen network that a delta may be initialised from."""

    def scores(self, kind: str) -> Mapping[str, Tensor]:
        """Parameter's name → score of each weight, in the parameter's shape.

        `kind` is `fisher` or `gradient`; gradients come through a head that was fitted first.
        """

    def passing(self, site: Site) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of a site on training examples, (n, ...) each; no labels."""

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """Result of `make`, computed once per `key` for all trials."""


class Delta(nn.Module, ABC):
    """Trainable change to one unit.

    Laws: the change is zero at the start; `count` equals what `attach` adds to training, from
    shapes alone; `detach` undoes `attach` exactly; a `mergeable` method only changes the unit's own
    tensors, so that writing these into the unit merges it; saving and loading changes no bit of
    its tensors.
    """

    paper: ClassVar[str] = ""
    """Paper that the method comes from, for the table of methods, as are the next three."""

    what: ClassVar[str] = ""
    """Description of what trains, in a few words."""

    where: ClassVar[str] = "places where its cost is not zero"
    """Layers, units or spans that it applies to."""

    inference: ClassVar[str] = "none"
    """Extra computation when the network is used."""

    mergeable: ClassVar[bool] = True
    """Whether it can be written into the unit's own tensors."""

    on_path: ClassVar[bool] = False
    """Whether it changes what flows between modules, so that the flow must be known."""

    on_span: ClassVar[bool] = False
    """Whether it attaches to spans (stages, the network) or to units."""

    goes_alone: ClassVar[bool] = False
    """Whether it leaves all else frozen, so that a plan with it has no other choice."""

    is_uniform_baseline: ClassVar[bool] = False
    """Whether the uniform baseline is made of it, in sizes of the option that `nests` names (which
    then has no default). If a space offers several such methods, the first in the table is used."""

    nests: ClassVar[str] = ""
    """Option at a smaller value of which the delta is the beginning of a larger one, for `narrow`;
    empty if there is none."""

    gate: Gate = 1.0
    """Factor of the change; at 0 the network is exactly the backbone. Not trained, not stored."""

    not_zero: ClassVar[str] = ""
    """Reason why the network does not start as exactly the backbone; empty if it does."""

    def retrains(self) -> bool:
        """Whether it sets whole tensors freely, so that a second change of weights adds nothing."""
        return False

    @abstractmethod
    def changes(self, site: Site) -> list[Slot]:
        """Slots whose tensor, once merged, may differ from the backbone's."""

    @abstractmethod
    def count(self, site: Site) -> Cost:
        """Cost at this site from shapes and dtypes alone; zero if the method has no place here."""

    def most(self, site: Site) -> int | None:
        """Largest useful size at this site, for sizes that the budget decides; None: no limit."""
        return None

    def adapts(self, site: Site) -> list[nn.Module]:
        """Normalisation layers whose running statistics follow the training batches."""
        return []

    def start(self, site: Site, evidence: Evidence) -> None:
        """Initialise from data, before anything is attached to the network."""

    @abstractmethod
    def attach(self, site: Site) -> None:
        """Attach the delta to the site; its own `parameters()` are what trains."""

    @abstractmethod
    def detach(self) -> None:
        """Take the delta off: parameter objects, classes and flags are the same as before."""

    def gated(self) -> Delta:
        """Delta that trains the same tensors and obeys `gate`; most deltas return themselves."""
        return self

    def masses(
        self, gradients: Sequence[tuple[Slot, Tensor]], sizes: Sequence[int]
    ) -> Sequence[float] | None:
        """Squared norm of the part of the gradients that the delta can follow, for each size.

        `gradients` are those of the slots in `changes`, at the start. None if the gradients of the
        delta's own parameters give the answer.
        """
        return None

    def narrow(self, size: int) -> None:
        """Use the first `size` ranks or channels alone, like a delta whose option `nests` is it."""
        for module in self.modules():
            if isinstance(module, Nested):
                module.size = size

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to store: the state dict, with the dots of parameter names restored."""
        return {name.replace("/", "."): tensor for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values that `tensors` returned earlier.

        Raises `KeyError` for a tensor that is missing, `ValueError` for another shape.
        """
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                if tensors[name].shape != tensor.shape:
                    shape, expected = tuple(tensors[name].shape), tuple(tensor.shape)
                    raise ValueError(f"{name} must have the shape {expected}, got {shape}")
                tensor.copy_(tensors[name])


def check_method(name: str, options: dict[str, Option], delta: type[Delta]) -> Method:
    """The method in its canonical form: options in declared order, defaults left out.

    Raises `PlanError` for an option that is unknown, missing or has an invalid value.
    """
    declared = signature(delta).parameters
    if unknown := [key for key in options if key not in declared]:
        known = ", ".join(declared) or "none"
        raise PlanError(f"{name} has no option {unknown[0]!r}. Known: {known}.")
    if missing := [k for k, p in declared.items() if p.default is p.empty and k not in options]:
        raise PlanError(f"{name} needs the option {missing[0]!r}. Give it in the search space.")
    delta(**options)
    kept = [k for k, p in declared.items() if k in options and options[k] != p.default]
    return Method(name, tuple((key, options[key]) for key in kept))


def check_size(method: str, option: str, value: object, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`; raise `PlanError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{method} needs a {option} of at least {least}, got {value!r}.")
    return value


def check_word(method: str, option: str, value: object, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of the `known` words; raise `PlanError` otherwise."""
    if not isinstance(value, str) or value not in known:
        raise PlanError(f"{method} takes as {option} one of {', '.join(known)}, got {value!r}.")
    return value


def cost_of(numel: int, dtype: torch.dtype) -> Cost:
    """Cost of `numel` trained values that change tensors of `dtype`, and are stored as they are."""
    return Cost(numel, numel, numel * trained_dtype(dtype).itemsize)


def stored_cost(numel: int, dtype: torch.dtype) -> Cost:
    """Cost of `numel` values that are stored but not trained."""
    return Cost(0, numel, numel * dtype.itemsize)


def cost_of_module(module: nn.Module) -> Cost:
    """Cost of a module's parameters and of the buffers in its state dict."""
    trained = {name for name, _ in module.named_parameters()}
    costs = [
        (cost_of if name in trained else stored_cost)(tensor.numel(), tensor.dtype)
        for name, tensor in module.state_dict().items()
    ]
    return sum(costs, Cost())


def is_off(gate: Gate) -> bool:
    """Whether the gate is the number 0; a tensor, which may be trained, is never off."""
    return not isinstance(gate, Tensor) and gate == 0


def scaled(change: Tensor, gate: Gate) -> Tensor:
    """gate · change; the change itself, bit for bit, at a gate of 1."""
    if not isinstance(gate, Tensor) and gate == 1:
        return change
    return gate * change
