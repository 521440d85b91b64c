"""The place in a network where a delta attaches: a unit's parameters, and what flows through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotune.backbones.dataflow import Call, Flow, Point
from autotune.backbones.routes import Route, Routes
from autotune.backbones.units import Unit, is_norm
from autotune.deltas.computed import Computed, computed_in


@dataclass(frozen=True, eq=False)
class Slot:
    """One tensor of a unit and every module that holds it (several when weights are tied).

    It is a parameter, or a weight that the network computes from parameters of the unit.
    """

    name: str
    owners: tuple[tuple[nn.Module, str], ...]
    computed: tuple[Computed, ...] = ()
    """Computation of the tensor of each owner from `sources`; empty for a parameter."""

    sources: tuple[Slot, ...] = ()
    """Parameters that a computed tensor is computed from; empty for a parameter."""

    @property
    def layer(self) -> nn.Module:
        """First module that holds it."""
        return self.owners[0][0]

    @property
    def attribute(self) -> str:
        """Its name in that module, such as `weight`."""
        return self.owners[0][1]

    @property
    def tensor(self) -> Tensor:
        """The tensor as the layer sees it now."""
        if self.is_computed():
            return self._value
        tensor: Tensor = getattr(self.layer, self.attribute)
        return tensor

    @property
    def frozen(self) -> Tensor:
        """The pretrained tensor, without what deltas do to it."""
        if self.is_computed():
            return self._value
        if parametrize.is_parametrized(self.layer, self.attribute):
            original: Tensor = self.layer.parametrizations[self.attribute].original  # type: ignore[union-attr,index]
            return original
        return self.tensor

    @cached_property
    def _value(self) -> Tensor:
        return self.computed[0].value()

    def parameters(self) -> tuple[Slot, ...]:
        """The parameter itself, or those that it is computed from."""
        return self.sources or (self,)

    def is_computed(self) -> bool:
        """Whether the layer computes it from its sources at present, and no delta replaces it."""
        return any(computed.is_active() for computed in self.computed)

    def is_norm(self) -> bool:
        """Whether it belongs to a normalisation layer."""
        return is_norm(self.layer)

    def is_bias(self) -> bool:
        """Whether it is added to the output, one value per channel."""
        return self.attribute.endswith("bias") and self.tensor.ndim == 1

    def is_matrix(self) -> bool:
        """Whether it is a kernel, an embedding or a projection (a packed one counts as one)."""
        return self.attribute.endswith("weight") and self.tensor.ndim > 1 and not self.is_norm()


@dataclass(frozen=True, eq=False)
class Site:
    """A unit or span in a network: what a delta attaches to."""

    name: str
    slots: tuple[Slot, ...]
    network: nn.Module
    modules: tuple[nn.Module, ...] = ()
    """All modules below the unit's name, dropout included; if the unit is not one module, only the
    layers that hold its parameters."""

    routes: tuple[Route, ...] = ()
    """Route through a unit, or one per level of a span; the last level of the network is its
    head."""

    source: Point | None = None
    """Input of the whole network."""

    @classmethod
    def of(cls, network: nn.Module, unit: Unit, flow: Flow | None = None) -> Site:
        """Site of `unit`; call this before anything is attached to the network."""
        return sites(network, [unit], flow)[unit.name]

    def is_span(self) -> bool:
        """Whether it has no parameters of its own."""
        return not self.slots

    @property
    def is_network(self) -> bool:
        """Whether it spans the whole network, in several levels."""
        return len(self.routes) > 1

    @property
    def entry(self) -> Point | None:
        """Tensor that goes in."""
        return self.source if self.is_network else self.routes[0].entry if self.routes else None

    @property
    def exit(self) -> Point | None:
        """Tensor that comes out; for the whole network, the input of its head."""
        if not self.routes:
            return None
        return self.routes[-1].entry if self.is_network else self.routes[0].exit

    @property
    def levels(self) -> list[Point]:
        """Output of each level of the network, without the head's."""
        return [route.exit for route in self.routes[:-1] if route.exit]

    def shape(self) -> tuple[object, ...]:
        """Everything a cost may depend on; equal for two blocks of the same layers and features."""
        slots = [(slot.attribute, slot.tensor.shape, slot.tensor.dtype) for slot in self.slots]
        layers = [str(slot.layer) for slot in self.slots]
        buffers = [b.shape for m in self.modules for b in m.buffers(recurse=False)]
        paths = [call.path for route in self.routes for call in route.outer]
        calls = [self._call_shape(call, paths) for route in self.routes for call in route.calls]
        whole = (len(self.routes), self.source) if self.is_span() else None
        return (*slots, *layers, *buffers, *calls, whole)

    def _call_shape(self, call: Call, tops: Sequence[str]) -> tuple[object, ...]:
        module = self.network.get_submodule(call.path)
        points = [replace(point, path="") if point else None for point in (call.input, call.output)]
        heads = getattr(module, "num_heads", None)
        return (_below(call.path, tops), type(module).__name__, heads, *points)

    def parts(self, kind: type[nn.Module] | str) -> list[Call]:
        """Calls of the outermost modules of one kind: a class, or part of a class's name."""
        calls = [call for route in self.routes for call in route.calls]
        parts = [c for c in calls if _is_a(self.network.get_submodule(c.path), kind)]
        return [c for c in parts if not any(c.path.startswith(f"{o.path}.") for o in parts)]


def sites(network: nn.Module, units: Iterable[Unit], flow: Flow | None = None) -> dict[str, Site]:
    """Unit's name → its site; `KeyError` for a parameter that the network does not have."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    by_name = {}
    for path, module in network.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, attribute))
            by_name[f"{path}.{attribute}" if path else attribute] = parameter
    routes = Routes(network, flow)
    whole = flow.get("") if flow else None

    parameters = {name: Slot(name, tuple(owners[id(tensor)])) for name, tensor in by_name.items()}
    computed = _by_sources(network)

    def site(unit: Unit) -> Site:
        slots = _slots([parameters[name] for name in unit.parameters], computed)
        levels = tuple(routes.through(names) for names in unit.levels or [unit.parameters])
        modules = tuple(_modules(network, unit, slots))
        return Site(unit.name, slots, network, modules, levels, whole.input if whole else None)

    return {unit.name: site(unit) for unit in units}


_Owner = tuple[nn.Module, str]


def _by_sources(network: nn.Module) -> dict[frozenset[_Owner], Computed]:
    """Parameters, as (module, name) → the tensor that is computed from them."""
    tensors = {frozenset(tensor.sources()): tensor for tensor in computed_in(network)}
    return {sources: tensor for sources, tensor in tensors.items() if sources}


def _slots(
    parameters: Sequence[Slot], computed: Mapping[frozenset[_Owner], Computed]
) -> tuple[Slot, ...]:
    """One slot per parameter, but one for all parameters that a tensor is computed from.

    If some of these are in no unit, or another layer uses one, a change of the computed tensor
    cannot be written into them: they are slots of their own.
    """
    by_owner = {owner: slot for slot in parameters for owner in slot.owners}
    whole: dict[int, Slot] = {}
    for sources, tensors in _shared(computed, by_owner):
        owners = tuple((tensor.layer, tensor.attribute) for tensor in tensors)
        slot = Slot(tensors[0].name, owners, tensors, sources)
        whole.update(dict.fromkeys(map(id, sources), slot))
    return tuple(dict.fromkeys(whole.get(id(slot), slot) for slot in parameters))


def _shared(
    computed: Mapping[frozenset[_Owner], Computed], by_owner: Mapping[_Owner, Slot]
) -> Iterator[tuple[tuple[Slot, ...], tuple[Computed, ...]]]:
    """Slots that tensors are computed from, with these tensors: several when weights are tied."""
    groups: dict[tuple[int, ...], list[tuple[frozenset[_Owner], Computed]]] = {}
    for owners, tensor in computed.items():
        if owners <= by_owner.keys():
            key = tuple(dict.fromkeys(id(s) for o, s in by_owner.items() if o in owners))
            groups.setdefault(key, []).append((owners, tensor))
    for group in groups.values():
        used = frozenset[_Owner]().union(*(owners for owners, _ in group))
        sources = tuple(dict.fromkeys(s for o, s in by_owner.items() if o in used))
        if {owner for slot in sources for owner in slot.owners} == used:
            yield sources, tuple(tensor for _, tensor in group)


def _modules(network: nn.Module, unit: Unit, slots: tuple[Slot, ...]) -> list[nn.Module]:
    prefix = unit.name + "."
    inside = {name for name, _ in network.named_parameters() if name.startswith(prefix)}
    if inside and inside <= set(unit.parameters):
        return list(network.get_submodule(unit.name).modules())
    return list(dict.fromkeys(slot.layer for slot in slots))


def _below(path: str, tops: Sequence[str]) -> str:
    """Path relative to the outermost module that contains it."""
    top = next(top for top in tops if path == top or path.startswith(f"{top}."))
    return path.removeprefix(top)


def _is_a(module: nn.Module, kind: type[nn.Module] | str) -> bool:
    if isinstance(kind, str):
        return kind in type(module).__name__.lower()
    return isinstance(module, kind)
