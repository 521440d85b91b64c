"""One shot: proxies and credits on the tiny network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from autotune.problem.plan import FROZEN, Choice
from autotune.tasks.loading import batches, generator_of
from autotune.training.oneshot.trainer import one_shot
from autotune.training.oneshot.zero_cost_proxies import find_proxies

RATES = {"lr:subtune": 0.1, "lr:lowrank": 0.1, "lr:scale": 0.1}
NORMS = Choice.of("subtune", what="norms")
CHOICES = {
    unit: [FROZEN, Choice.of("lowrank", rank=1), Choice.of("lowrank", rank=2), NORMS]
    for unit in ("conv", "first", "second")
}
ALL = {unit: [FROZEN, Choice.of("subtune", what="all")] for unit in ("conv", "first", "second")}


@pytest.fixture
def shot(make_engine):
    with one_shot(make_engine(), CHOICES, RATES, [0.01, 0.1]) as shot:
        yield shot


@pytest.fixture
def batch(shot):
    device = torch.device("cpu")
    return next(batches(shot.held_out, 16, input=None, device=device))


def gradient_of(network, batch, weight):
    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(batch[0]), batch[1]), [weight])
    weight.requires_grad_(False)
    return gradient


def test_the_mass_of_low_rank_is_that_of_the_kernels_gradient(shot, batch):
    network = shot.supernet.network
    weight = network.first.conv.parametrizations.weight.original
    singular = torch.linalg.svdvals(gradient_of(network, batch, weight).flatten(1).double())
    measured = find_proxies(shot.supernet, [batch], shot.recipe, generator_of(0, 0))
    for rank in (1, 2):
        expected = float(singular[:rank].square().sum())
        assert measured["first", f"lowrank-{rank}"].mass == pytest.approx(expected, rel=1e-4)


def test_the_mass_of_norms_is_their_gradients_norm(shot, batch):
    network = shot.supernet.network
    norm = network.first.norm.parametrizations
    parts = [gradient_of(network, batch, norm[k].original) for k in ("weight", "bias")]
    measured = find_proxies(shot.supernet, [batch], shot.recipe, generator_of(0, 0))
    expected = float(sum(part.square().sum() for part in parts))
    assert measured["first", "subtune-norms"].mass == pytest.approx(expected, rel=1e-4)


def test_chance_is_small_where_labels_do_not_fit_the_network(make_engine):
    """Labels that the head has not seen ask more of the network than its own predictions do."""
    with one_shot(make_engine(), ALL, RATES, [0.1]) as shot:
        device = torch.device("cpu")
        inputs, labels = next(batches(shot.held_out, 48, input=None, device=device))
        batch = inputs, (labels + 1) % 3
        wrong = find_proxies(shot.supernet, [batch], shot.recipe, generator_of(0, 0))
    assert all(proxy.mass > 3 * proxy.chance > 0 for proxy in wrong.values())
    assert all(proxy.relative > 0 for proxy in wrong.values())


def test_proxies_are_computed_in_the_recipes_precision(shot, batch):
    low = replace(shot.recipe, precision="bfloat16")
    exact = find_proxies(shot.supernet, [batch], shot.recipe, generator_of(0, 0))
    rounded = find_proxies(shot.supernet, [batch], low, generator_of(0, 0))
    masses = {entry: proxy.mass for entry, proxy in exact.items()}
    assert {entry: proxy.mass for entry, proxy in rounded.items()} != masses
    assert {e: p.mass for e, p in rounded.items()} == pytest.approx(masses, rel=0.1)


def test_finding_proxies_leaves_the_supernet_closed_and_nothing_asking_for_gradients(shot, batch):
    network = shot.supernet.network
    before = network(batch[0])
    find_proxies(shot.supernet, [batch], shot.recipe, generator_of(0, 0))
    assert torch.equal(network(batch[0]), before)
    originals = [slot.frozen for site in shot.supernet.sites.values() for slot in site.slots]
    assert not any(p.requires_grad for p in originals)


def test_the_two_halves_are_measured_on_different_data(shot):
    first, second = shot.proxies()
    assert first.keys() == second.keys()
    assert {label for _, label in first} == {"lowrank-1", "lowrank-2", "subtune-norms"}
    assert first["first", "lowrank-1"]["mass"] != second["first", "lowrank-1"]["mass"]
    assert first["first", "lowrank-1"]["weights"] == second["first", "lowrank-1"]["weights"]


def test_training_halves_are_disjoint_and_nothing_else_is_looked_at(make_engine):
    engine = make_engine()
    with one_shot(engine, CHOICES, RATES, [0.1]) as shot:
        halves = [*shot.training.inputs, *shot.held_out.inputs]
    digests = [x.numpy().tobytes() for x in halves]
    assert len({*digests}) == len(digests) == len(engine.task.train)
    assert {*digests} == {x.numpy().tobytes() for x in engine.task.train.inputs}


def test_shares_add_up_to_what_all_take_off_the_loss(shot, batch):
    """Aumann-Shapley: integrated along the way of all gates from 0 to 1 nothing is left over."""
    for _ in range(4):
        shot.train()
    network = shot.supernet.network
    points = [(i + 0.5) / 40 for i in range(40)]
    total = sum(sum(shot.shares(batch, p, generator_of(7, 0)).values()) for p in points) / 40
    before = F.cross_entropy(network(batch[0]), batch[1]).item()
    generator = generator_of(7, 0)
    for strand in shot.supernet.strands:
        strand.open(int(torch.randint(len(strand.methods), (), generator=generator)))
    after = F.cross_entropy(network(batch[0]), batch[1]).item()
    shot.supernet.close()
    assert before - after == pytest.approx(total, rel=0.02)
    assert before - after > 0.05, "these steps are enough to learn something"


def test_credits_are_of_methods_in_their_sizes_once_a_batch(shot):
    shot.train()
    credits = shot.credits()
    n_batches = -(-len(shot.held_out) // 16)
    by_strand: dict[tuple[str, str], int] = {}
    for (unit, label), shares in credits.items():
        key = unit, label.partition("-")[0]
        by_strand[key] = by_strand.get(key, 0) + len(shares)
    assert {*by_strand.values()} == {n_batches} and len(by_strand) == 6


def test_it_resumes_where_it_was_with_equal_bits(make_engine):
    engine = make_engine()
    with one_shot(engine, CHOICES, RATES, [0.1]) as shot:
        shot.train()
        state = {name: t.clone() for name, t in shot.state().items()}
        shot.train()
        expected = shot.credits()
    with one_shot(engine, CHOICES, RATES, [0.1]) as again:
        again.restore(state, 1)
        again.train()
        assert again.credits() == expected


def test_the_head_is_fitted_at_the_rate_that_is_best_on_the_other_half(make_engine):
    with one_shot(make_engine(), CHOICES, RATES, [1e-6, 0.1]) as shot:
        assert shot.rates["lr:head"] == 0.1


def test_afterwards_the_network_is_what_it_was(make_engine, tiny_network):
    engine = make_engine()
    x = torch.randn(3, 1, 6, 6)
    before, parameters = tiny_network.eval()(x), [*tiny_network.parameters()]
    with one_shot(engine, CHOICES, RATES, [0.1]) as shot:
        shot.train()
    assert torch.equal(tiny_network.eval()(x), before)
    assert [*map(id, tiny_network.parameters())] == [*map(id, parameters)]
