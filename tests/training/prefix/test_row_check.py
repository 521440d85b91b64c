"""Kept values are compared with the network on shuffled rows before a study trusts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search, released
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.prefix import Keeping
from autotune.training.prefix.row_check import misplaced_value


class MixesLarge(nn.Module):
    """Adds the previous example to examples with a large value, which the first five lack."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        large = (x.abs().amax(1, keepdim=True) > 10).to(x.dtype)
        h = self.body(x)
        return self.head((h + large * h.roll(1, 0)).relu())  # type: ignore[no-any-return]


def inputs(n: int) -> Tensor:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    x[5:] += 20.0
    return x


def test_rows_that_move_with_their_examples_are_right():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    assert misplaced_value(Graph(network, inputs(5)), network, inputs(7)) is None


def test_a_value_that_only_some_examples_mix_is_named():
    network = MixesLarge().eval()
    misplaced = misplaced_value(Graph(network, inputs(5)), network, inputs(7))
    assert misplaced is not None
    assert "mul" in misplaced or "add" in misplaced


@pytest.mark.parametrize("memory", [0, 10**8])
def test_a_study_on_such_a_network_warns_and_computes_everything_anew(memory, caplog):
    x, y = inputs(60).numpy(), (np.arange(60) % 2).astype(np.int64)
    torch.manual_seed(0)
    settings = read_settings(
        {"epochs": 2, "batch_size": 8, "space": "any", "budget": "100%", "device": "cpu"}
    )
    with released(prepare_search(settings, MixesLarge().eval(), (x, y))) as setup:
        setup.engine.keeping = Keeping(memory=memory)
        setup.engine.to("cpu")
        rates = {"lr:head": 0.01, "weight_decay": 0.0}
        *_, last = setup.engine(Job("job", Plan(), rates, seed=1))
        assert not setup.engine.prefix.keeps
    assert "are not cached: on shuffled examples" in caplog.text
    assert last.metrics["loss"] > 0


@pytest.mark.slow
def test_examples_that_are_drawn_anew_are_not_kept(caplog):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, at: int) -> tuple[Tensor, int]:
            return inputs(40)[at] + 0.1 * torch.randn(4), at % 2

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    settings = read_settings(
        {"epochs": 2, "batch_size": 8, "space": "any", "budget": "100%", "device": "cpu"}
    )
    losses = []
    for memory in (0, 10**8):
        with released(prepare_search(settings, network, Noisy())) as setup:
            setup.engine.keeping = Keeping(memory=memory)
            setup.engine.to("cpu")
            *_, last = setup.engine(Job("job", Plan(), {"lr:head": 0.01, "weight_decay": 0.0}, 1))
            losses.append(last.metrics["loss"])
            assert not setup.engine.prefix.keeps
    assert losses[0] == losses[1]
    assert "read anew in every epoch" in caplog.text
