"""The supernet: the deltas of all choices on one network at once, each behind a gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from autotune.backbones.dataflow import Flow
from autotune.backbones.units import Unit
from autotune.deltas import METHODS
from autotune.deltas.base import Delta, Evidence, Gate
from autotune.deltas.costs import new_delta
from autotune.deltas.seeding import seeded
from autotune.deltas.site import sites
from autotune.deltas.surgery import frozen
from autotune.problem.plan import Choice, Method

Choices = Mapping[str, Sequence[Choice]]
"""Unit → what it may take, *frozen* or not."""

Entry = tuple[str, str]
"""(unit, label)."""


@dataclass(frozen=True, eq=False)
class Strand:
    """One delta of the supernet: a method of a unit in the largest size on offer."""

    unit: str
    methods: tuple[Method, ...]
    """The sizes on offer, the smallest first; one where none is the beginning of another."""

    delta: Delta

    @property
    def name(self) -> str:
        """`UNIT/METHOD-OPTIONS`, the size left out."""
        return f"{self.unit}/{_without_size(self.methods[0]).label}"

    def entry(self, at: int) -> Entry:
        """(unit, label) of the choice of this method alone, in one of its sizes."""
        return self.unit, self.methods[at].label

    @property
    def sizes(self) -> list[int]:
        """As numbers; 0 where none is the beginning of another."""
        return [_size(method) for method in self.methods]

    def open(self, at: int, gate: Gate = 1.0) -> None:
        """It counts, times the gate, in one of its sizes."""
        self.delta.gate = gate
        if size := self.sizes[at]:
            self.delta.narrow(size)

    def close(self) -> None:
        self.delta.gate = 0.0


class Supernet:
    """Every strand of some units' choices, attached at once.

    Choices share what they can: two choices with `subtune-norms` train the same norms, and rank 1
    is the beginning of rank 4. At first all strands are closed. Methods that do not begin as
    nothing, or that leave no room for others, have no strand. Dropout is off and normalisation
    statistics stay, `bn: adapt` or not.
    """

    def __init__(
        self,
        network: nn.Module,
        units: Iterable[Unit],
        choices: Choices,
        *,
        seed: int,
        flow: Flow | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        methods = {u: _company(offered) for u, offered in choices.items()}
        tuned = [unit for unit in units if methods.get(unit.name)]
        self.network = network
        self.sites = sites(network, tuned, flow)
        self.strands = [strand for u in tuned for strand in _strands(u.name, methods[u.name])]
        self._undo = frozen(network)
        try:
            self._attach(seed, evidence)
        except BaseException:
            self.detach()
            raise
        self.close()

    def _attach(self, seed: int, evidence: Evidence | None) -> None:
        for strand in self.strands if evidence else ():
            assert evidence is not None
            with seeded(seed, strand.name, "start"):
                strand.delta.start(self.sites[strand.unit], evidence)
        for strand in self.strands:
            with seeded(seed, strand.name):
                strand.delta.attach(self.sites[strand.unit])

    def close(self) -> None:
        """All strands: the network computes what it did."""
        for strand in self.strands:
            strand.close()

    def tensors(self) -> dict[str, Tensor]:
        """`UNIT/METHOD-OPTIONS/NAME` → tensor."""
        return {
            f"{strand.name}/{name}": tensor
            for strand in self.strands
            for name, tensor in strand.delta.tensors().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values that `tensors` once gave."""
        for strand in self.strands:
            prefix = strand.name + "/"
            mine = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            strand.delta.load(mine)

    def detach(self) -> None:
        """Everything as it was before."""
        for strand in reversed(self.strands):
            strand.delta.detach()
        self._undo()


def can_share(choices: Choices) -> bool:
    """Whether any method of these choices would have a strand."""
    return any(_company(offered) for offered in choices.values())


def _company(choices: Iterable[Choice]) -> list[Method]:
    """The methods of some choices that may be open together at their start, each once."""
    return [m for m in dict.fromkeys(m for c in choices for m in c.methods) if _joins(m)]


def _joins(method: Method) -> bool:
    delta = METHODS.load(method.name)
    return not (delta.not_zero or delta.goes_alone)


def _strands(unit: str, methods: Iterable[Method]) -> list[Strand]:
    """In the method table's order."""
    by_key: dict[str, list[Method]] = {}
    for method in methods:
        by_key.setdefault(_without_size(method).label, []).append(method)
    order = METHODS.names()
    sized = [tuple(sorted(m, key=_size)) for m in by_key.values()]
    sized.sort(key=lambda methods: order.index(methods[0].name))
    return [Strand(unit, methods, new_delta(methods[-1]).gated()) for methods in sized]


def _without_size(method: Method) -> Method:
    nests = METHODS.load(method.name).nests
    return Method(method.name, tuple((k, v) for k, v in method.options if k != nests))


def _size(method: Method) -> int:
    delta = new_delta(method)
    return int(getattr(delta, delta.nests)) if delta.nests else 0
