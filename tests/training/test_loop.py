"""Training: seeded, resumable, frozen means frozen, and a failure says what failed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autotune.backbones.units import find_units
from autotune.deltas.attach import attached
from autotune.errors import TrialError
from autotune.problem.plan import Choice, Plan
from autotune.tasks.loading import PartFeed
from autotune.tasks.part import Part
from autotune.training.loop import Fit, Group, Recipe, evaluate, predict, rng_devices

RECIPE = Recipe(epochs=3, batch_size=16)


def feed(part):
    return PartFeed(part, None, torch.device("cpu"))


def feeds(task):
    return feed(task.train), feed(task.val)


def fit_of(network: nn.Module, recipe: Recipe = RECIPE, *, rate=0.01, decay=0.0, seed=0) -> Fit:
    """Everything in the network trains."""
    group = Group("all", list(network.parameters()), rate)
    return Fit(network, [group], recipe, seed=seed, weight_decay=decay)


def tensors(network: nn.Module) -> list[torch.Tensor]:
    return [t.clone() for t in network.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def small():
    """Makes equal networks with a dropout, without statistics."""

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Linear(36, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.Linear(8, 3)
            return nn.Sequential(nn.Flatten(), *layers)

    return make


def test_a_seed_decides_everything(small, tiny_task):
    ended = []
    for seed in (1, 1, 2):
        network = small()
        torch.rand(5)
        metrics = [e.metrics for e in fit_of(network, seed=seed).epochs(*feeds(tiny_task))]
        ended.append((metrics, tensors(network)))
    assert ended[0][0] == ended[1][0] != ended[2][0]
    assert equal(ended[0][1], ended[1][1])
    assert not equal(ended[0][1], ended[2][1])


def test_training_leaves_the_random_state_of_torch_alone(small, tiny_task):
    network, before = small(), torch.get_rng_state()
    list(fit_of(network).epochs(*feeds(tiny_task)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_after_any_epoch_gives_equal_bits(small, tiny_task, after):
    whole, cut, resumed = small(), small(), small()
    expected = list(fit_of(whole, decay=0.1).epochs(*feeds(tiny_task)))
    first = fit_of(cut, decay=0.1)
    epochs = first.epochs(*feeds(tiny_task))
    for _ in range(after):
        next(epochs)
    second = fit_of(resumed, decay=0.1)
    resumed.load_state_dict(cut.state_dict())
    second.restore({k: t.clone() for k, t in first.state().items()}, after)
    rest = list(second.epochs(*feeds(tiny_task)))
    assert [e.metrics for e in rest] == [e.metrics for e in expected[after:]]
    assert equal(tensors(resumed), tensors(whole))


def test_training_learns(small, tiny_task):
    *_, last = fit_of(small(), replace(RECIPE, epochs=30)).epochs(*feeds(tiny_task))
    assert last.metrics["accuracy"] > 0.8
    assert last.loss < math.log(3) / 2
    assert last.number == 30


def test_decay_reaches_matrices_and_no_vectors(small):
    fit = fit_of(small(), decay=0.5)
    decays = {p.ndim: g["weight_decay"] for g in fit.optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.5, 1: 0.0}


def test_the_rate_falls_on_a_cosine_and_each_group_has_its_own(small, tiny_task):
    network = small()
    vectors = [p for p in network.parameters() if p.ndim == 1]
    kernels = [p for p in network.parameters() if p.ndim == 2]
    groups = [Group("a", vectors, 0.01), Group("b", kernels, 0.001), Group("none", [], 9.0)]
    fit = Fit(network, groups, replace(RECIPE, epochs=2), seed=0, weight_decay=0.0)
    next(epochs := fit.epochs(*feeds(tiny_task)))
    first = [group["lr"] for group in fit.optimizer.param_groups]
    list(epochs)
    last = [group["lr"] for group in fit.optimizer.param_groups]
    factor = 0.5 * (1 + math.cos(math.pi * 6 / 14))
    assert first == pytest.approx([0.01 * factor, 0.001 * factor])
    assert last[0] < first[0] / 5


def test_frozen_means_frozen(tiny_backbone, tiny_task):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    before = {name: t.clone() for name, t in network.state_dict().items()}
    seen: dict[str, set[bool]] = {}
    for name in ("first", "second"):
        seen[name] = set()
        network.get_submodule(f"{name}.dropout").register_forward_hook(
            lambda module, *_, name=name: seen[name].add(module.training)
        )
    with attached(network, units, Plan({"first": Choice.of("subtune", what="all")})) as deltas:
        deltas.train()
        group = Group("first", deltas.parameters(), 0.01)
        list(Fit(network, [group], RECIPE, seed=0, weight_decay=0.5).epochs(*feeds(tiny_task)))
        trained = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert trained == {
        f"first.{p}" for p in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    }
    assert seen == {"first": {True, False}, "second": {False}}
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_a_nan_ends_the_trial(small, tiny_task):
    inputs = tiny_task.train.inputs.clone()
    inputs[5] = float("nan")
    with pytest.raises(TrialError, match="must keep finite losses, epoch 1 gave nan"):
        list(
            fit_of(small()).epochs(feed(Part(inputs, tiny_task.train.labels)), feed(tiny_task.val))
        )


def test_weights_that_burst_in_the_last_step_end_the_trial(small, tiny_task):
    recipe = Recipe(epochs=1, batch_size=999)
    with pytest.raises(TrialError, match="must keep finite losses, epoch 1 gave"):
        list(fit_of(small(), recipe, rate=1e30).epochs(*feeds(tiny_task)))


def test_a_trained_tensor_that_is_never_used_ends_the_trial(small, tiny_task):
    network = small()
    groups = [
        Group("the head", list(network[4].parameters()), 0.01),
        Group("spare subtune", [nn.Parameter(torch.zeros(2, 3))], 0.01),
    ]
    fit = Fit(network, groups, RECIPE, seed=0, weight_decay=0.0)
    with pytest.raises(TrialError, match=r"one of spare subtune with shape \(2, 3\) got none"):
        list(fit.epochs(*feeds(tiny_task)))


def test_a_gradient_of_exactly_zero_is_a_gradient(small, tiny_task):
    network, factor = small(), nn.Parameter(torch.ones(()))
    network.register_forward_hook(lambda module, args, output: output + 0.0 * factor)
    groups = [
        Group("the head", list(network[4].parameters()), 0.01),
        Group("idle scale", [factor], 0.01),
    ]
    fit = Fit(network, groups, RECIPE, seed=0, weight_decay=0.0)
    assert len(list(fit.epochs(*feeds(tiny_task)))) == RECIPE.epochs


def test_evaluation_gives_every_module_its_mode_back(tiny_network, tiny_task):
    tiny_network.train()
    tiny_network.first.eval()
    modes = [module.training for module in tiny_network.modules()]
    before = {name: b.clone() for name, b in tiny_network.named_buffers()}
    evaluations = [evaluate(tiny_network, feed(tiny_task.val), RECIPE) for _ in range(2)]
    assert evaluations[0] == evaluations[1]
    assert [module.training for module in tiny_network.modules()] == modes
    assert all(torch.equal(b, before[name]) for name, b in tiny_network.named_buffers())


def test_predictions_come_in_the_order_of_the_part(tiny_network, tiny_task):
    logits, labels = predict(tiny_network.eval(), feed(tiny_task.val), Recipe(batch_size=4))
    with torch.no_grad():
        expected = tiny_network(tiny_task.val.inputs)
    torch.testing.assert_close(logits, expected)
    assert labels.tolist() == tiny_task.val.labels.tolist()


class Slope(nn.Module):
    """Computes a gradient with respect to its input, as energy models do."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(x.square().sum(), x)
        return gradient


def test_a_network_may_compute_gradients_for_itself_in_evaluation():
    part = Part(torch.ones(4, 3), np.zeros(4, dtype=int))
    logits, _ = predict(Slope(), feed(part), RECIPE)
    assert torch.equal(logits, torch.full((4, 3), 2.0))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "auroc"])
def test_every_metric_is_measured_and_lies_between_0_and_1(tiny_network, tiny_task, metric):
    evaluations = evaluate(tiny_network, feed(tiny_task.val), replace(RECIPE, metric=metric))
    assert set(evaluations) == {"loss", "accuracy", metric}
    assert 0 <= evaluations[metric] <= 1


def test_an_epoch_keeps_the_random_state_of_the_gpu_that_it_trains_on():
    assert rng_devices(torch.device("cuda:1")) == [torch.device("cuda", 1)]
    assert rng_devices(torch.device("cpu")) == []
