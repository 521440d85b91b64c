"""What all paths share: they follow the network, its dtype, and calls with named arguments."""

from __future__ import annotations

import pytest
import torch

from autotune.problem.plan import Choice

from .kinds import LAYERS, SPANS
from .rig import Rig

PATHS = [
    (LAYERS["attention"], Choice.of("res_prefix", length=2)),
    (LAYERS["attention"], Choice.of("res_prompt", length=2)),
    (LAYERS["block"], Choice.of("res_adapter", width=2)),
    (SPANS["stage"], Choice.of("skip", width=2)),
    (SPANS["images"], Choice.of("side", width=2)),
    (SPANS["images"], Choice.of("bypass", width=2)),
]
NAMES = [choice.names[0] for _, choice in PATHS]


@pytest.mark.parametrize(("kind", "choice"), PATHS, ids=NAMES)
def test_follows_the_network_to_another_device(kind, choice):
    rig = Rig(kind)
    deltas = rig.attach(choice)
    rig.network.to("meta")
    assert rig.network(rig.batch.to("meta")).is_meta
    assert all(parameter.is_meta for parameter in deltas.parameters())


@pytest.mark.parametrize(("kind", "choice"), PATHS, ids=NAMES)
def test_has_the_networks_dtype(kind, choice):
    deltas = Rig(kind, torch.float64).attach(choice)
    assert {parameter.dtype for parameter in deltas.parameters()} == {torch.float64}


@pytest.mark.parametrize(("kind", "choice"), PATHS, ids=NAMES)
def test_without_a_known_flow_there_is_no_place(kind, choice):
    rig = Rig(kind)
    rig.flow = None
    with pytest.raises(ValueError, match="has no place"):
        rig.attach(choice)
