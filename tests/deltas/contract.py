"""What every method must obey, on every kind of layer; a method's test says which it changes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from autotune.deltas.base import Evidence
from autotune.deltas.costs import plan_cost
from autotune.deltas.hotswap import Swap, state_of
from autotune.deltas.site import sites
from autotune.errors import MergeError, PlanError
from autotune.problem.budget import Cost
from autotune.problem.plan import Choice, Plan
from autotune.training.prefix.cut import before, cut
from autotune.training.prefix.graph import Graph

from .kinds import LAYERS, SPANS, Kind
from .rig import Rig, bits, content, gradients, same, snapshot, stored


class DeltaContract:
    """Filled in by the choices of a method and the kinds that each of them leaves alone.

    Two laws are tried on all kinds, the others on a few typical ones.
    """

    CHOICES: ClassVar[tuple[Choice, ...]] = ()
    KINDS: ClassVar[dict[str, Kind]] = LAYERS
    LEFT_ALONE: ClassVar[dict[str, dict[str, str]]] = {}
    """Label → kind → why the method has no place there."""

    TRIED_ON: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Label → the kinds that are enough, where another choice does the same on all others."""

    TYPICAL: ClassVar[tuple[str, ...]] = ("linear", "grouped", "transformer")
    """Kinds that together run all code of the method: enough for all laws but two."""

    ON_ALL_KINDS: ClassVar[tuple[str, ...]] = (
        "test_starts_as_exactly_the_backbone",
        "test_detach_restores_everything_after_training",
    )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per choice and kind in which the method has a place, or per refusing choice."""
        if "refused" in metafunc.fixturenames:
            refused = [choice for choice in self.CHOICES if self.LEFT_ALONE.get(choice.label)]
            metafunc.parametrize("refused", refused, ids=[choice.label for choice in refused])
        if "choice" in metafunc.fixturenames:
            on_all = metafunc.function.__name__ in self.ON_ALL_KINDS
            pairs = [(c, kind) for c in self.CHOICES for kind in self.kinds(c, on_all=on_all)]
            names = [f"{choice.label}-{kind}" for choice, kind in pairs]
            metafunc.parametrize(("choice", "kind"), pairs, ids=names)

    def kinds(self, choice: Choice, *, on_all: bool) -> list[str]:
        """Kinds that a law is tried on: where the method has a place, all or the typical ones."""
        kinds = self.TRIED_ON.get(choice.label, self.KINDS if on_all else self.TYPICAL)
        return [kind for kind in kinds if kind not in self.LEFT_ALONE.get(choice.label, {})]

    @pytest.fixture
    def rig(self, kind: str) -> Rig:
        return Rig(self.KINDS[kind])

    def evidence(self, rig: Rig) -> Evidence | None:
        """For methods that look at data first."""
        return None

    def attach(self, rig: Rig, *choices: Choice, seed: int = 0) -> Any:
        return rig.attach(*choices, seed=seed, evidence=self.evidence(rig))

    def test_what_is_left_out_is_named_as_it_is_called(self):
        listed = {**self.LEFT_ALONE, **self.TRIED_ON}
        assert set(listed) <= {choice.label for choice in self.CHOICES}
        assert all(set(kinds) <= set(self.KINDS) for kinds in (*listed.values(), self.TYPICAL))
        assert all(self.kinds(choice, on_all=False) for choice in self.CHOICES)

    def test_starts_as_exactly_the_backbone(self, rig, choice):
        before = rig.outputs()
        for parameter in self.attach(rig, choice).parameters():
            parameter.requires_grad_(False)  # by which torch chooses kernels, as of a GRU
        assert torch.equal(rig.outputs(), before)

    def test_count_is_what_trains_and_what_a_file_holds(self, rig, choice):
        deltas = self.attach(rig, choice)
        file = content(deltas)
        trained = sum(p.numel() for p in deltas.parameters() if p.requires_grad)
        assert deltas.predicted == deltas.cost() != Cost()
        assert deltas.predicted.parameters == trained
        assert deltas.predicted.bytes == len(file) - 8 - int.from_bytes(file[:8], "little")

    def test_count_needs_shapes_alone(self, rig, choice, kind):
        plan, units = Plan({rig.unit.name: choice}), [rig.unit]
        before = plan_cost({rig.unit.name: rig.site}, plan)
        network, flow = self.KINDS[kind].shapes
        assert plan_cost(sites(network, units, flow), plan) == before

    def test_has_no_place_where_it_says_so(self, refused):
        for kind, why in self.LEFT_ALONE[refused.label].items():
            rig = Rig(self.KINDS[kind])
            before = snapshot(rig.network)
            assert plan_cost({rig.unit.name: rig.site}, Plan({rig.unit.name: refused})) == Cost()
            with pytest.raises(PlanError, match=f"{refused.label} has no place in"):
                self.attach(rig, refused)
            assert snapshot(rig.network) == before
            assert why

    def test_detach_restores_everything_after_training(self, rig, choice):
        rig.network.train()
        next(rig.network.parameters()).requires_grad_(True)
        before, values, outputs = snapshot(rig.network), bits(rig.network), rig.outputs()
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        deltas.detach()
        assert snapshot(rig.network) == before
        assert same(bits(rig.network), values)
        assert torch.equal(rig.outputs(), outputs)

    def test_it_can_be_exchanged_for_the_backbone_and_back(self, rig, choice):
        rig.network.eval()
        bare, state, before = rig.outputs(), state_of(rig.network), snapshot(rig.network)
        rig.train(self.attach(rig, choice), steps=1)
        rig.network.eval()
        tuned, swap = rig.outputs(), Swap.between(state, state_of(rig.network))
        swap.take_off(torch.device("cpu"))
        assert snapshot(rig.network) == before
        assert torch.equal(rig.outputs(), bare)
        swap.put_on(torch.device("cpu"))
        assert torch.equal(rig.outputs(), tuned)

    def test_saved_and_loaded_tensors_give_equal_bits(self, rig, choice):
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        outputs, tensors = rig.outputs(), stored(deltas)
        deltas.detach()
        self.attach(rig, choice, seed=1).load(tensors)
        assert torch.equal(rig.outputs(), outputs)

    def test_behind_a_cut_it_is_what_it_is_on_the_whole_network(self, rig, choice):
        """Its outputs and gradients; what is before the cut is computed as if it were not there."""
        graph = Graph(rig.network, rig.batch)
        deltas = self.attach(rig, choice)
        rig.train(deltas, steps=1)  # so that no part of it is zero
        cut_graph = cut(graph)
        rig.network.eval()
        with torch.no_grad():
            live = before(graph, cut_graph.live, [graph.input])(rig.batch.clone())
        state = stored(deltas)  # a curriculum counts steps
        whole = gradients(rig, deltas, rig.network(rig.batch.clone()))
        deltas.load(state)
        behind = gradients(rig, deltas, cut_graph.behind(*live)[0])
        for expected, ours in zip(whole, behind, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)

    def test_every_trained_tensor_gets_a_gradient_within_two_steps(self, rig, choice):
        assert all(rig.train(self.attach(rig, choice), steps=2))

    def test_training_changes_the_delta_and_never_the_backbone(self, rig, choice):
        originals = [*rig.network.parameters(), *rig.network.buffers()]
        values, outputs = [tensor.detach().clone() for tensor in originals], rig.outputs()
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        assert not torch.equal(rig.outputs(), outputs)
        assert all(map(torch.equal, originals, values))
        assert all(tensor.grad is None and not tensor.requires_grad for tensor in originals)

    def test_deltas_of_two_tasks_do_not_disturb_each_other(self, rig, choice):
        first = self.attach(rig, choice)
        rig.train(first)
        outputs, tensors = rig.outputs(), stored(first)
        first.detach()
        rig.target = -rig.target
        second = self.attach(rig, choice, seed=1)
        rig.train(second)
        assert not torch.equal(rig.outputs(), outputs)
        second.detach()
        self.attach(rig, choice).load(tensors)
        assert torch.equal(rig.outputs(), outputs)

    def test_holds_in_bfloat16_too(self, choice, kind):
        for law in (
            self.test_starts_as_exactly_the_backbone,
            self.test_count_is_what_trains_and_what_a_file_holds,
            self.test_detach_restores_everything_after_training,
            self.test_saved_and_loaded_tensors_give_equal_bits,
        ):
            law(Rig(self.KINDS[kind], torch.bfloat16), choice)


class GateContract(DeltaContract):
    """For methods with a gate."""

    def test_a_gate_of_zero_is_exactly_the_backbone(self, rig, choice):
        before = rig.outputs()
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        assert not torch.equal(rig.outputs(), before)
        for delta in deltas.by_place.values():
            delta.gate = 0.0
        assert torch.equal(rig.outputs(), before)

    def test_a_gate_may_be_a_tensor_that_learns(self, rig, choice):
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        together, (delta,) = rig.outputs(), deltas.by_place.values()
        delta.gate = torch.ones((), requires_grad=True)
        torch.testing.assert_close(rig.outputs(), together, rtol=1e-6, atol=1e-6)
        rig.loss().backward()
        assert delta.gate.grad is not None and delta.gate.grad != 0
        assert deltas.cost() == deltas.predicted


class MergeContract(DeltaContract):
    """For methods that change weights alone."""

    def test_merged_the_network_alone_computes_the_same(self, rig, choice):
        rig.network.eval()
        before, values = snapshot(rig.network), bits(rig.network)
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        together = rig.outputs()
        assert deltas.merge(rig.batch) <= 1e-5
        assert snapshot(rig.network) == before
        assert not same(bits(rig.network), values)
        torch.testing.assert_close(rig.outputs(), together, rtol=1e-5, atol=1e-6)


class PathContract(GateContract):
    """For methods that add a path."""

    def test_does_not_merge_says_so_and_stays_usable(self, rig, choice):
        deltas = self.attach(rig, choice)
        rig.train(deltas)
        together = rig.outputs()
        with pytest.raises(MergeError, match=f"{choice.names[0]} in {rig.unit.name} adds a path"):
            deltas.merge(rig.batch)
        assert torch.equal(rig.outputs(), together)
        rig.train(deltas)
        assert not torch.equal(rig.outputs(), together)
        assert [delta.changes(rig.site) for delta in deltas.by_place.values()] == [[]]


class SpanContract(PathContract):
    """For paths beside a stage or the network."""

    KINDS = SPANS
    TYPICAL = ("in-place-stage", "token-stage", "images", "by-name")
