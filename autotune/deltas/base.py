"""The law of every delta, and the place in a network where one attaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotune.backbones.units import Unit, is_norm
from autotune.budget import Cost
from autotune.errors import PlanError
from autotune.plan import Method, Option


@dataclass(frozen=True, eq=False)
class Slot:
    """One parameter of a unit and every module that holds it (several when weights are tied)."""

    name: str
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def layer(self) -> nn.Module:
        return self.owners[0][0]

    @property
    def attribute(self) -> str:
        return self.owners[0][1]

    @property
    def tensor(self) -> Tensor:
        """The parameter as the layer sees it now."""
        tensor: Tensor = getattr(self.layer, self.attribute)
        return tensor

    def is_norm(self) -> bool:
        return is_norm(self.layer)

    def is_bias(self) -> bool:
        return self.attribute == "bias"

    def is_matrix(self) -> bool:
        """Whether it is the kernel of a Linear or a convolution."""
        return self.attribute == "weight" and isinstance(self.layer, (nn.Linear, nn.Conv2d))


@dataclass(frozen=True, eq=False)
class Site:
    """A unit in a network: what a delta attaches to."""

    name: str
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, network: nn.Module, unit: Unit) -> Site:
        """The site of `unit`; to be made before anything is attached to the network."""
        return sites(network, [unit])[unit.name]

    def layers(self) -> list[nn.Module]:
        return list(dict.fromkeys(slot.layer for slot in self.slots))


def sites(network: nn.Module, units: Iterable[Unit]) -> dict[str, Site]:
    """Unit's name → its site. Raises `KeyError` for a parameter that the network does not have."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    by_name = {}
    for path, module in network.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, attribute))
            by_name[f"{path}.{attribute}" if path else attribute] = parameter

    def slot(name: str) -> Slot:
        return Slot(name, tuple(owners[id(by_name[name])]))

    return {unit.name: Site(unit.name, tuple(map(slot, unit.parameters))) for unit in units}


class Delta(nn.Module, ABC):
    """Trainable change to one unit.

    Laws: zero at start; `count` equals what `attach` adds to training, from shapes alone;
    `detach` undoes `attach` exactly; a `mergeable` method does nothing but change the unit's own
    tensors, so that writing these into the unit merges it; tensors that were saved and loaded
    give equal bits.
    """

    paper: ClassVar[str]
    """Where the method comes from."""

    mergeable: ClassVar[bool] = True

    @abstractmethod
    def changes(self, site: Site) -> list[Slot]:
        """The slots whose tensor, once merged, may differ from the backbone's."""

    @abstractmethod
    def count(self, site: Site) -> Cost:
        """Cost at this site from shapes and dtypes alone; zero where the method finds no place."""

    @abstractmethod
    def attach(self, site: Site) -> None:
        """Put the delta on the site; what trains are its own `parameters()`."""

    @abstractmethod
    def detach(self) -> None:
        """Take it off: the same parameter objects, classes and flags as before."""

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: the state dict, with the dots of parameter names put back."""
        return {name.replace("/", "."): tensor for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of what `tensors` once gave; `KeyError` or shape errors otherwise."""
        with torch.no_grad():
            for name, mine in self.tensors().items():
                mine.copy_(tensors[name].reshape(mine.shape))


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


def cost_of(numel: int, dtype: torch.dtype) -> Cost:
    """Cost of `numel` trained values that are stored as they are."""
    return Cost(numel, numel, numel * dtype.itemsize)


class Parametrized(Delta):
    """A delta that writes some of a unit's tensors as a function of the frozen ones.

    Built on `torch.nn.utils.parametrize`; tied weights share one parametrization. Deltas on one
    tensor come off in the reverse order of coming on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self._undo: list[Callable[[], None]] = []

    @abstractmethod
    def part(self, slot: Slot) -> nn.Module:
        """The module that maps the frozen tensor of a slot to the tuned one."""

    def attach(self, site: Site) -> None:
        for slot in self.changes(site):
            part = self.part(slot)
            self.parts[slot.name.replace(".", "/")] = part
            for module, attribute in slot.owners:
                self._undo.append(_parametrize(module, attribute, part))

    def detach(self) -> None:
        while self._undo:
            self._undo.pop()()


def _parametrize(module: nn.Module, attribute: str, part: nn.Module) -> Callable[[], None]:
    order = tuple(module._parameters)
    parametrize.register_parametrization(module, attribute, part)

    def undo() -> None:
        stack: Any = module.parametrizations
        if len(stack[attribute]) > 1:
            del stack[attribute][-1]
            return
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        module._parameters.update({k: module._parameters.pop(k) for k in order})

    return undo
