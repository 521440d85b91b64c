"""The law of every delta, and the two families: changes of weights, and paths beside modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from autotune.deltas.nested import Nested
from autotune.deltas.site import Site, Slot
from autotune.errors import PlanError
from autotune.problem.budget import Cost
from autotune.problem.plan import Method, Option

Gate = float | Tensor


class Evidence(Protocol):
    """What a delta may look at before it trains, on the training inputs and the frozen network."""

    def scores(self, kind: str) -> Mapping[str, Tensor]:
        """Parameter's name → score of each weight: `fisher` or `gradient`, with a fitted head."""

    def passing(self, site: Site) -> tuple[Tensor, Tensor]:
        """What goes into a site and what comes out, (n, ...) each; no labels."""

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all trials."""


class Delta(nn.Module, ABC):
    """Trainable change to one unit.

    Laws: zero at start; `count` equals what `attach` adds to training, from shapes alone;
    `detach` undoes `attach` exactly; a `mergeable` method does nothing but change the unit's own
    tensors, so that writing these into the unit merges it; tensors that were saved and loaded
    give equal bits.
    """

    paper: ClassVar[str] = ""
    """Where the method comes from."""

    what: ClassVar[str] = ""
    """What trains, in a few words."""

    where: ClassVar[str] = "places where it counts more than nothing"
    """What it applies to."""

    inference: ClassVar[str] = "none"
    """What it costs extra when the network is used."""

    mergeable: ClassVar[bool] = True
    on_path: ClassVar[bool] = False
    """Whether it changes what flows between modules, so that the flow must be known."""

    on_span: ClassVar[bool] = False
    """Whether it attaches to spans (stages, the network) or to units."""

    goes_alone: ClassVar[bool] = False
    """Whether it leaves all else frozen, so that a plan with it has no other choice."""

    is_uniform_baseline: ClassVar[bool] = False
    """Whether the uniform baseline consists of it, at sizes of its option `nests`, which then has
    no default. Of several such methods in a space the first in the table counts."""

    nests: ClassVar[str] = ""
    """Option whose smaller values are the beginning of larger ones, for `narrow`; or empty."""

    gate: Gate = 1.0
    """Factor of the change that is applied; 0 is exactly the backbone. Not trained, not stored."""

    not_zero: ClassVar[str] = ""
    """Why it does not start as exactly the backbone; empty for all that do."""

    def retrains(self) -> bool:
        """Whether it sets whole tensors freely, so that a second change of weights adds nothing."""
        return False

    @abstractmethod
    def changes(self, site: Site) -> list[Slot]:
        """The slots whose tensor, once merged, may differ from the backbone's."""

    @abstractmethod
    def count(self, site: Site) -> Cost:
        """Cost at this site from shapes and dtypes alone; zero where the method finds no place."""

    def most(self, site: Site) -> int | None:
        """Largest size that makes sense here, where a space leaves it to the budget; None: any."""
        return None

    def adapts(self, site: Site) -> list[nn.Module]:
        """Normalisation layers whose statistics it lets follow the training batches."""
        return []

    def start(self, site: Site, evidence: Evidence) -> None:
        """Look at data, before anything is attached to the network."""

    @abstractmethod
    def attach(self, site: Site) -> None:
        """Put the delta on the site; what trains are its own `parameters()`."""

    @abstractmethod
    def detach(self) -> None:
        """Take it off: the same parameter objects, classes and flags as before."""

    def gated(self) -> Delta:
        """A delta that trains as much behind a `gate`: itself, where it has one."""
        return self

    def masses(
        self, gradients: Sequence[tuple[Slot, Tensor]], sizes: Sequence[int]
    ) -> Sequence[float] | None:
        """Squared norms of what the loss asks of it at start, in each of some sizes.

        From the gradients of `changes`; None where those of its own parameters say it.
        """
        return None

    def narrow(self, size: int) -> None:
        """Compute with its beginning alone, as a delta whose option `nests` is `size`."""
        for module in self.modules():
            if isinstance(module, Nested):
                module.size = size

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: the state dict, with the dots of parameter names put back."""
        return {name.replace("/", "."): tensor for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of what `tensors` once gave; `KeyError` or shape errors otherwise."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                if tensors[name].shape != tensor.shape:
                    shape, expected = tuple(tensors[name].shape), tuple(tensor.shape)
                    raise ValueError(f"{name} must have the shape {expected}, got {shape}")
                tensor.copy_(tensors[name])


def check_method(name: str, options: dict[str, Option], delta: type[Delta]) -> Method:
    """The method in its canonical form: options in declared order, defaults left out.

    Raises `PlanError` for an option that is unknown, missing or has a value it cannot have.
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
    """`value` itself when it is a whole number of at least `least`; `PlanError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{method} needs a {option} of at least {least}, got {value!r}.")
    return value


def check_word(method: str, option: str, value: object, known: tuple[str, ...]) -> str:
    """`value` itself when it is one of the known words; `PlanError` otherwise."""
    if not isinstance(value, str) or value not in known:
        raise PlanError(f"{method} takes as {option} one of {', '.join(known)}, got {value!r}.")
    return value


def cost_of(numel: int, dtype: torch.dtype) -> Cost:
    """Cost of `numel` trained values that are stored as they are."""
    return Cost(numel, numel, numel * dtype.itemsize)


def stored_cost(numel: int, dtype: torch.dtype) -> Cost:
    """Cost of `numel` values that are stored but not trained."""
    return Cost(0, numel, numel * dtype.itemsize)


def cost_of_module(module: nn.Module) -> Cost:
    """Cost of a module's parameters and of the buffers that its state has."""
    trained = {name for name, _ in module.named_parameters()}
    costs = [
        (cost_of if name in trained else stored_cost)(tensor.numel(), tensor.dtype)
        for name, tensor in module.state_dict().items()
    ]
    return sum(costs, Cost())


def is_off(gate: Gate) -> bool:
    """Whether nothing of a change is applied, for certain."""
    return not isinstance(gate, Tensor) and gate == 0


def scaled(change: Tensor, gate: Gate) -> Tensor:
    """gate · change; the change itself at a gate of 1."""
    if not isinstance(gate, Tensor) and gate == 1:
        return change
    return gate * change
