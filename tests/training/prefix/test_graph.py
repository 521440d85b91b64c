"""What a traced network is: every value once, and which of them can be kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from autotune.backbones.units import Unit
from autotune.deltas.attach import attached
from autotune.deltas.paths import Touch
from autotune.problem.plan import Choice, Plan
from autotune.training.prefix.cut import before, cut
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.nodes import Untraceable
from autotune.training.prefix.observation import OBSERVED_EXAMPLES
from autotune.training.prefix.product_branch import product_branch

EXAMPLE = torch.randn(OBSERVED_EXAMPLES, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, something in the middle, and a head."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(2, 3, 1), middle, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class Branches(nn.Module):
    """Goes where its values tell it, which no trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Inside(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) if bool((x > 1e9).any()) else self.part(2 * x)


class Heeds(nn.Module):
    """Its own code asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.part(x), 0.5, self.training)


class Checked(nn.Module):
    """Looks at a shape, so that it is followed operator by operator."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("three channels")
        return x


class Mixes(nn.Module):
    """Every example is seen beside the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class InPlace(nn.Module):
    """The shortcut reads what the ReLU has written over."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.relu(x))
        y += x
        return y


class Numbered(nn.Module):
    """Adds something that is computed from the number of a row, and not from its example."""

    def __init__(self, number: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.number = nn.Conv2d(3, 3, 1), number

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + self.number(torch.arange(x.shape[0])).view(-1, 1, 1, 1)


class Picks(nn.Module):
    """Picks the last place of every example by the number of its row, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)[torch.arange(x.shape[0]), :, -1].unsqueeze(-1)


class Turned(nn.Module):
    """Positions before examples for a while, as transformers of sequences have it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.part(x.flatten(2).permute(2, 0, 1))
        return y.permute(1, 2, 0).reshape(n, c, h, w)


MIDDLES = {
    "plain": nn.ReLU,
    "a leaf that branches": Branches,
    "a container that branches": lambda: Inside(nn.Conv2d(3, 3, 1)),
    "heeds its mode": Heeds,
    "in place": InPlace,
    "turned": Turned,
    "mixes": Mixes,
    "numbers rows": lambda: Numbered(lambda n: n),
    "numbers pairs of rows": lambda: Numbered(lambda n: n // 2),
    "numbers rows from behind": lambda: Numbered(lambda n: n.flip(0)),
    "numbers all rows alike": lambda: Numbered(lambda n: 0 * n + len(n)),
    "picks by row": Picks,
    "statistics of the batch": lambda: nn.BatchNorm2d(3, track_running_stats=False),
}


@pytest.fixture(params=MIDDLES)
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    return Net(MIDDLES[request.param]()).eval().requires_grad_(False)


ROWS = torch.tensor([3, 0, 6, 1])


def outputs(net: nn.Module, graph: Graph, x: Tensor, rows: Any = slice(None)) -> Tensor:
    """Outputs for some rows; what is before the cut is computed for all rows at once."""
    cut_graph = cut(graph)
    with torch.no_grad():
        live = before(graph, cut_graph.live, [graph.input])(x.clone())
        return cut_graph.behind(*(value[rows] for value in live))[0]


@pytest.mark.parametrize("trained", ["stem", "middle", "head"])
def test_both_sides_of_a_cut_give_what_the_network_gives(net, trained):
    part = getattr(net, trained)
    graph = Graph(net, EXAMPLE)
    if not list(part.parameters()):
        part = net.head
    part.requires_grad_(True)
    x = torch.randn(7, 2, 4, 4)
    with torch.no_grad():
        expected, shuffled = net(x.clone()), net(x[ROWS])
    assert torch.equal(outputs(net, graph, x), expected)
    torch.testing.assert_close(outputs(net, graph, x, ROWS), shuffled)


@pytest.mark.parametrize("name", ["mixes", "statistics of the batch"])
def test_what_depends_on_other_examples_is_never_kept(name):
    net = Net(MIDDLES[name]()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    (live,) = cut(graph).live
    assert graph.seen[live].shape == (3, 4, 4)  # what the stem gives, not what the middle does
    assert str(live.target) == "network.stem"


def test_a_container_that_cannot_be_traced_is_one_node():
    graph = Graph(Net(Inside(nn.Conv2d(3, 3, 1))).eval(), EXAMPLE)
    assert graph.untraced == ("network.middle",)


def test_what_heeds_its_mode_is_behind_the_cut_while_it_trains():
    net = Net(Heeds()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    assert str(cut(graph).live[0].target) != "network.stem"
    net.middle.train()
    assert [str(node.target) for node in cut(graph).live] == ["network.stem"]


def test_dropout_in_training_is_behind_the_cut():
    net = Net(nn.Sequential(nn.Dropout(0.5), nn.ReLU())).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    net.middle[0].train()
    assert [str(node.target) for node in cut(graph).live] == ["network.stem"]


def test_a_network_whose_own_code_branches_is_untraceable():
    class Whole(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    with pytest.raises(Untraceable):
        Graph(Whole(nn.ReLU()).eval(), EXAMPLE)


def test_operators_that_compute_a_weight_are_no_graph():
    net = Net(nn.ReLU()).eval()
    weight_norm(net.head)
    with pytest.raises(Untraceable, match=r"head\.weight is computed by WeightNorm"):
        Graph(net, EXAMPLE, is_exported=True)


def test_a_network_that_heeds_its_mode_is_cut_in_evaluation_alone():
    class Whole(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return 2 * y if self.training else y

    net = Whole(nn.ReLU()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    assert cut(graph).live
    net.training = True
    with pytest.raises(Untraceable, match="is in training mode"):
        cut(graph)


def test_classes_and_modes_are_left_alone():
    net = Net(Heeds()).train()
    before_ = [(type(m), m.training) for m in net.modules()]
    Graph(net, EXAMPLE)
    assert [(type(m), m.training) for m in net.modules()] == before_


def test_a_hook_of_the_users_is_heeded():
    net = Net(nn.ReLU()).eval().requires_grad_(False)
    net.middle.register_forward_hook(lambda module, args, output: 3 * output)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    with torch.no_grad():
        assert torch.equal(outputs(net, graph, EXAMPLE), net(EXAMPLE))


def test_deltas_get_the_input_that_a_pre_hook_of_the_users_changed():
    network = Net(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())).eval()
    for module in (network, network.middle):
        module.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    graph = Graph(network, EXAMPLE)
    handles = [
        Touch(lambda x: 2 * x, is_input=True, only_looks=False).put_on(module)
        for module in (network, network.middle)
    ]
    network_cut = cut(graph)
    live = before(graph, network_cut.live, [graph.input])(EXAMPLE)
    (got,) = network_cut.behind(*live)
    assert torch.equal(got, network(EXAMPLE))
    for handle in handles:
        handle.remove()


def test_a_forward_of_the_users_on_a_layer_is_heeded_and_kept():
    dropout = _own_forward(nn.Dropout(0.5))
    network, forward = Net(nn.Sequential(Checked(), dropout)).eval(), dropout.forward
    graph = Graph(network, EXAMPLE, is_exported=True)
    (got,) = before(graph, [graph.output], [graph.input])(EXAMPLE)
    assert torch.allclose(got, network(EXAMPLE))
    assert vars(dropout)["forward"] is forward


class Keeping(nn.Module):
    """Keeps what it has computed, and goes another way if there is something."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.kept:
            raise AssertionError("it ran before")
        self.kept["x"] = x
        return x


def test_nothing_of_a_trace_stays_in_the_network():
    network = Net(Keeping()).eval()
    graphs_of(network, EXAMPLE)
    assert not network.middle.kept


def test_a_hook_of_another_kind_that_came_later_is_refused_on_a_container():
    net = Net(nn.Sequential(nn.ReLU())).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    net.middle.register_forward_hook(lambda module, args, output: 3 * output)
    with pytest.raises(Untraceable, match=r"network\.middle has a hook"):
        cut(graph)


def test_what_is_before_a_cut_is_not_run_again():
    net = Net(nn.ReLU()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    cut_graph = cut(graph)
    assert [str(step.node.target) for step in cut_graph.behind.steps] == ["network.head"]


class Normed(nn.Module):
    """Convolutions with norms behind them; the last one's convolution is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.third, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(F.relu(self.first(self.stem(x)))))
        y = self.third(x)
        return self.head((y + self.last(y)).mean((2, 3)))


@pytest.mark.parametrize(
    ("trained", "left"),
    [("stem", {"stem", "first", "third", "last"}), ("norm", {"norm", "third", "last"})],
)
def test_frozen_norms_are_folded_where_nobody_sees_it(trained, left):
    torch.manual_seed(0)
    net = Normed()
    net(3 * torch.randn(20, 2, 5, 5) + 1)
    net.eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    for name in (trained, "head"):
        getattr(net, name).requires_grad_(True)
    plain, folded = cut(graph), cut(graph, fuse_batchnorm=True)
    assert len(folded.behind.steps) == len(plain.behind.steps) - (trained == "stem")
    layers = {str(s.node.target).rpartition(".")[2] for s in folded.behind.steps}
    assert left <= layers
    with torch.no_grad():
        live = before(graph, folded.live, [graph.input])(EXAMPLE)
        torch.testing.assert_close(folded.behind(*live)[0], net(EXAMPLE))


class Activated(nn.BatchNorm2d):
    """A norm that does more than torch's, as those of timm do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _own_forward(layer: nn.Module) -> nn.Module:
    """A layer whose `forward` was replaced, as wrappers do."""
    plain = layer.forward
    layer.forward = lambda x: 3 * plain(x)
    return layer


def _hooked(layer: nn.Module, *, is_pre: bool) -> nn.Module:
    if is_pre:
        layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    else:
        layer.register_forward_hook(lambda module, args, output: output + 1)
    return layer


ODD_PAIRS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "norm of a subclass": lambda: (nn.Conv2d(3, 3, 1), Activated(3)),
    "convolution of a subclass": lambda: (Doubled(3, 3, 1), nn.BatchNorm2d(3)),
    "hook of a norm": lambda: (nn.Conv2d(3, 3, 1), _hooked(nn.BatchNorm2d(3), is_pre=False)),
    "pre-hook of a norm": lambda: (nn.Conv2d(3, 3, 1), _hooked(nn.BatchNorm2d(3), is_pre=True)),
    "hook of a convolution": lambda: (
        _hooked(nn.Conv2d(3, 3, 1), is_pre=False),
        nn.BatchNorm2d(3),
    ),
    "pre-hook of a convolution": lambda: (
        _hooked(nn.Conv2d(3, 3, 1), is_pre=True),
        nn.BatchNorm2d(3),
    ),
    "forward of its own": lambda: (_own_forward(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
    "norm of the batch": lambda: (
        nn.Conv2d(3, 3, 1),
        nn.BatchNorm2d(3, track_running_stats=False),
    ),
    "parametrized": lambda: (weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
    "plain": lambda: (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
}


@pytest.mark.parametrize("name", ODD_PAIRS)
def test_only_plain_layers_are_fused(name):
    torch.manual_seed(0)
    net = Net(nn.Sequential(*ODD_PAIRS[name]()))
    net(3 * torch.randn(20, 2, 5, 5) + 1)
    net.eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.stem.requires_grad_(True)
    plain, fused = cut(graph), cut(graph, fuse_batchnorm=True)
    assert len(plain.behind.steps) - len(fused.behind.steps) == (name == "plain")
    with torch.no_grad():
        live = before(graph, fused.live, [graph.input])(EXAMPLE)
        torch.testing.assert_close(fused.behind(*live)[0], net(EXAMPLE))


class Wide(nn.Module):
    """Layers that are large enough for low rank to be computed beside them, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(2, 256, 1), nn.Conv2d(256, 256, 3, padding=1, stride=2)
        self.mlp, self.head = nn.Linear(256, 300), nn.Linear(300, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mlp(F.relu(self.wide(self.stem(x))).mean((2, 3)))))


@pytest.mark.parametrize("unit", ["stem", "wide", "mlp"])
def test_low_rank_next_to_a_layer_is_low_rank_in_its_kernel(unit):
    torch.manual_seed(0)
    net = Wide().eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    place = Unit(unit, (f"{unit}.weight", f"{unit}.bias"))
    with attached(net, [place], Plan({unit: Choice.of("lowrank", rank=3)})) as deltas:
        delta = deltas.by_place[unit, "lowrank"]
        for parameter in delta.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        cut_graph = cut(graph)
        first = next(step.function for step in cut_graph.behind.steps)
        is_beside = first != getattr(net, unit).forward
        assert is_beside == (unit != "stem")
        live = before(graph, cut_graph.live, [graph.input])(EXAMPLE)
        behind, whole = cut_graph.behind(*live)[0], net(EXAMPLE)
        with torch.no_grad():
            assert torch.equal(cut_graph.behind(*live)[0], net(EXAMPLE))
        torch.testing.assert_close(behind, whole, rtol=1e-4, atol=1e-5)
        ours, expected_there = (
            torch.autograd.grad(outputs.square().sum(), deltas.parameters())
            for outputs in (behind, whole)
        )
        torch.testing.assert_close(ours, expected_there, rtol=1e-3, atol=1e-4)
        delta.gate = 0.5
        assert product_branch(getattr(net, unit)) is None


def test_a_change_that_is_more_than_a_product_is_not_computed_next_to_its_layer():
    """`times` is B·A ⊙ W, which has the factors of low rank but not its law."""
    torch.manual_seed(0)
    graph = Graph(net := Wide().eval().requires_grad_(False), EXAMPLE)
    place, choice = Unit("mlp", ("mlp.weight", "mlp.bias")), Choice.of("reparam", form="times")
    with attached(net, [place], Plan({"mlp": choice})) as deltas:
        for parameter in deltas.parameters():
            torch.nn.init.normal_(parameter)
        parts = cut(graph)
        live = before(graph, parts.live, [graph.input])(EXAMPLE)
        torch.testing.assert_close(parts.behind(*live)[0], net(EXAMPLE))


class Between(nn.Module):
    """Two wide layers, between which is something that a graph cannot follow, or cannot keep."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(2, 64, 3, padding=1), between
        self.second, self.head = nn.Conv2d(64, 64, 3, padding=1), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.between(self.first(x))).mean((2, 3)))


class MinusMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_a_cut_says_which_module_runs_as_a_whole():
    block = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), Branches(), nn.Conv2d(64, 3, 1))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = block

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x) if float(x.sum()) > -1e9 else x

    net = nn.Sequential(Block(), nn.Flatten(), nn.Linear(48, 2)).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net[2].requires_grad_(True)
    assert cut(graph).why == ""
    net[0].inside[2].requires_grad_(True)
    assert "0 runs as a whole, as its code cannot be traced" in cut(graph).why


def test_a_cut_says_that_values_have_no_row_per_example():
    net = Between(MinusMean()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    assert "values have no row per example" in cut(graph).why
    net = Between(nn.ReLU()).eval().requires_grad_(False)
    graph = Graph(net, EXAMPLE)
    net.head.requires_grad_(True)
    assert cut(graph).why == ""


def test_tracing_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr("autotune.training.prefix.graph.SECONDS", 0.2)

    class Endless(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            while isinstance(x, Proxy):  # never, for a tensor
                time.sleep(0.01)
            return super().forward(x)

    graphs, reason = graphs_of(Net(Endless(nn.ReLU())).eval(), EXAMPLE)
    assert (graphs, reason) == ([], "tracing takes more than 0.2 s")
