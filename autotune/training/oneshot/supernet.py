"""Supernet: deltas of all choices attached to one network at once, each behind a gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from autotune.backbones.dataflow import Flow
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.units import Unit
from autotune.deltas import METHODS
from autotune.deltas.base import Delta, Evidence, Gate
from autotune.deltas.costs import new_delta
from autotune.deltas.seeding import seeded
from autotune.deltas.site import sites
from autotune.deltas.surgery import frozen
from autotune.problem.plan import Choice, Method

Choices = Mapping[str, Sequence[Choice]]
"""Unit → choices that it may take."""

Entry = tuple[str, str]
"""(unit, label)."""


@dataclass(frozen=True, eq=False)
class Strand:
    """One delta of the supernet: a method of a unit in its largest size."""

    unit: str
    methods: tuple[Method, ...]
    """Method in each of its sizes, the smallest first; a single one if sizes do not nest."""

    delta: Delta

    @property
    def name(self) -> str:
        """Name `UNIT/METHOD-OPTIONS`, without the size."""
        return f"{self.unit}/{_without_size(self.methods[0]).label}"

    def entry(self, at: int) -> Entry:
        """(unit, label) of the choice of this method alone, in size `at`."""
        return self.unit, self.methods[at].label

    @property
    def sizes(self) -> list[int]:
        """Sizes as numbers; 0 if sizes do not nest."""
        return [_size(method) for method in self.methods]

    def open(self, at: int, gate: Gate = 1.0) -> None:
        """Apply the delta in size `at`, multiplied by the gate."""
        self.delta.gate = gate
        if size := self.sizes[at]:
            self.delta.narrow(size)

    def close(self) -> None:
        """Stop applying the delta."""
        self.delta.gate = 0.0


class Supernet:
    """Strands of all choices of some units, attached at once.

    Choices share parameters if possible: two choices with `subtune-norms` train the same norms,
    and rank 1 is the first component of rank 4. All strands start closed. Methods that do not start
    at zero, or that exclude others, have no strand. Dropout is off and normalisation statistics are
    fixed, also for `bn: adapt`.
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
        methods = {u: _shareable(offered) for u, offered in choices.items()}
        tuned = [unit for unit in units if methods.get(unit.name)]
        self.network = network
        self.sites = sites(network, tuned, flow)
        self.strands = [strand for u in tuned for strand in _strands(u.name, methods[u.name])]
        self._undo, self._snapshot = frozen(network), Snapshot(network)
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
        """Close all strands, so that the network computes the same as the backbone."""
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
        """Load the values that `tensors` returned."""
        for strand in self.strands:
            prefix = strand.name + "/"
            strand.delta.load(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )

    def detach(self) -> None:
        """Detach all strands; the network is then as it was before."""
        for strand in reversed(self.strands):
            strand.delta.detach()
        self._snapshot.restore()
        self._undo()


def can_share(choices: Choices) -> bool:
    """Whether any method of these choices can have a strand."""
    return any(_shareable(offered) for offered in choices.values())


def _shareable(choices: Iterable[Choice]) -> list[Method]:
    """Methods of the choices that can have a strand, without repetition."""
    return [m for m in dict.fromkeys(m for c in choices for m in c.methods) if _joins(m)]


def _joins(method: Method) -> bool:
    delta = METHODS.load(method.name)
    return not (delta.not_zero or delta.goes_alone)


def _strands(unit: str, methods: Iterable[Method]) -> list[Strand]:
    """Strands of a unit, in the method table's order."""
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
