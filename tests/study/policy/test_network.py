"""The policy network and its file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from autotune.errors import PolicyError
from autotune.study.policy.features import PRIOR
from autotune.study.policy.network import PolicyNetwork, read_policy

NAMES = ["depth", "log mass", PRIOR]


@pytest.fixture
def network():
    made = PolicyNetwork(NAMES, seed=1)
    torch.nn.init.normal_(made.out, generator=torch.Generator().manual_seed(0))
    return made


@pytest.fixture
def read():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(2))


def test_before_it_learns_its_scores_are_those_of_the_prior(read):
    scores = PolicyNetwork(NAMES)(read)
    assert torch.allclose(scores / scores[0], (read[:, 2] - read[0, 2]).exp())
    assert scores.square().mean().item() == pytest.approx(1)


def test_features_are_known_by_name(network, read):
    other = network.reading([PRIOR, "depth", "log mass"])
    assert torch.allclose(other(read[:, [2, 0, 1]]), network(read), atol=1e-6)


def test_a_feature_that_it_never_saw_counts_nothing(network, read):
    wider = network.reading(["new", *NAMES])
    inputs = torch.cat([torch.randn(6, 1), read], 1)
    assert torch.allclose(wider(inputs), network(read), atol=1e-6)


def test_a_file_gives_the_same_scores(network, read, tmp_path):
    file = tmp_path / "policy.safetensors"
    file.write_bytes(network.to_bytes({"task": "digits"}))
    assert torch.equal(read_policy(file)(read), network(read))


def nan_file(network):
    torch.nn.init.constant_(network.bias, float("nan"))
    return network.to_bytes({})


WRONG = {
    "garbage": lambda network: b"no safetensors",
    "empty": lambda network: b"",
    "another format": lambda network: save({"out": torch.zeros(1)}, {"policy": '{"format": 9}'}),
    "no header": lambda network: save({"out": torch.zeros(1)}),
    "too few tensors": lambda network: save(
        {"out": torch.zeros(16)}, {"policy": json.dumps({"format": 1, "features": NAMES})}
    ),
    "no mapping": lambda network: save({"out": torch.zeros(1)}, {"policy": "[]"}),
    "features of numbers": lambda network: save(
        {"out": torch.zeros(1)}, {"policy": json.dumps({"format": 1, "features": [[], {}]})}
    ),
    "not finite": nan_file,
    "cut off": lambda network: network.to_bytes({})[:-9],
}


@pytest.mark.parametrize("kind", WRONG)
def test_any_other_file_is_refused_on_one_line(network, kind, tmp_path):
    file = tmp_path / "policy.safetensors"
    file.write_bytes(WRONG[kind](network))
    with pytest.raises(PolicyError, match=r"^A policy file must be .*policy.safetensors") as error:
        read_policy(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="Name another with --policy"):
        read_policy(tmp_path / "none.safetensors")
