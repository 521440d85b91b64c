"""What criteria say of units, against the same by hand; and a search by each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import find_units
from autotune.deltas.site import sites
from autotune.tasks.loading import batches
from autotune.training.evidence import TaskEvidence
from autotune.training.oneshot.unit_scores import CRITERIA, unit_scores

INPUT = InputDescription(shape=(1, 6, 6))
N = 12


@pytest.fixture
def network(tiny_network: nn.Module) -> nn.Module:
    return tiny_network.eval()


@pytest.fixture
def examples(tiny_task: Any) -> tuple[Tensor, Tensor]:
    return next(batches(tiny_task.train, N, input=INPUT, device=torch.device("cpu")))


@pytest.fixture
def values(network: nn.Module, tiny_task: Any) -> Any:
    """Criterion → unit → value, on the first examples of the task."""
    backbone = describe(network, source="tiny", family="any", input=INPUT)
    network_sites = sites(network, find_units(backbone, "tree"), None)

    def ask(criterion: str) -> dict[str, float]:
        evidence = TaskEvidence(
            backbone,
            tiny_task.train.take(np.arange(N)),
            input=INPUT,
            device=torch.device("cpu"),
            fit_head=lambda: network.fc,
        )
        return unit_scores(criterion, network_sites, evidence)

    return ask


def gradients(network: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """By torch.func, of every parameter of the block `first`."""
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(network, parameters, (inputs,))
        return F.cross_entropy(logits, labels)

    gradient = torch.func.grad(loss)(parameters)
    return {name: g for name, g in gradient.items() if name.startswith("first.")}


def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(network, examples, values):
    inputs, labels = examples
    each = [gradients(network, inputs[i : i + 1], labels[i : i + 1]) for i in range(N)]
    by_hand = sum(float(g.square().sum()) for gradient in each for g in gradient.values()) / N
    assert values("fisher")["first"] == pytest.approx(by_hand, rel=1e-4)


def test_relative_and_taylor_read_the_mean_gradient(network, examples, values):
    gradient = gradients(network, *examples)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    asked = sum(float(g.square().sum()) for g in gradient.values())
    there = sum(float(weights[name].square().sum()) for name in gradient)
    taylor = sum(float((weights[name] * g).abs().sum()) for name, g in gradient.items())
    assert values("relative")["first"] == pytest.approx((asked / there) ** 0.5, rel=1e-4)
    assert values("taylor")["first"] == pytest.approx(taylor, rel=1e-4)


def test_activation_weighs_each_weight_by_what_it_multiplies(network, examples, values):
    taken = []
    handle = network.first.conv.register_forward_pre_hook(lambda _, x: taken.append(x[0]))
    network(examples[0])
    handle.remove()
    norms = taken[0].detach().movedim(1, -1).flatten(0, -2).norm(dim=0)
    kernel = network.first.conv.weight.detach().abs()
    by_hand = float((kernel * norms.view(1, -1, 1, 1)).sum())
    assert values("activation")["first"] == pytest.approx(by_hand, rel=1e-4)


def test_condition_is_that_of_the_kernel_as_a_matrix(network, values):
    matrix = network.first.conv.weight.detach().flatten(1).double()
    by_hand = float(torch.linalg.cond(matrix).log())
    assert values("condition")["first"] == pytest.approx(by_hand, rel=1e-6)


def test_activation_reads_grouped_transposed_and_linear_kernels_by_their_inputs():
    torch.manual_seed(0)
    layers = {
        "grouped": (nn.Conv2d(4, 6, 3, groups=2), torch.randn(5, 4, 7, 7)),
        "transposed": (nn.ConvTranspose2d(4, 6, 3), torch.randn(5, 4, 7, 7)),
        "linear": (nn.Linear(4, 6), torch.randn(5, 9, 4)),
    }
    from autotune.deltas.site import Slot
    from autotune.training.oneshot.unit_scores import _input_norms, _weighted_by_input

    for name, (layer, inputs) in layers.items():
        with _input_norms([layer]) as norms:
            layer(inputs)
        total = float(
            _weighted_by_input(Slot("weight", ((layer, "weight"),)), norms[id(layer)]).sum()
        )
        channels = inputs if name == "linear" else inputs.movedim(1, -1)
        scales = channels.flatten(0, -2).norm(dim=0)
        kernel = layer.weight.detach().abs()
        if name == "grouped":
            halves = [
                kernel[:3].sum((0, 2, 3)) @ scales[:2],
                kernel[3:].sum((0, 2, 3)) @ scales[2:],
            ]
            expected = float(sum(halves))
        elif name == "transposed":
            expected = float(kernel.sum((1, 2, 3)) @ scales)
        else:
            expected = float(kernel.sum(0) @ scales)
        assert total == pytest.approx(expected, rel=1e-5), name


def test_every_criterion_leaves_the_network_as_it_was(network, values):
    before = {name: t.clone() for name, t in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    for criterion in CRITERIA:
        assert all(value >= 0 for value in values(criterion).values())
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == flags
    assert not any(module._forward_pre_hooks for module in network.modules())
