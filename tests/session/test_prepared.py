"""Prepared statistics in a run folder that has no digest of them, which another program wrote."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from autotune.errors import RunError
from autotune.session.beginning import read_buffers

NETWORK = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
BUFFERS = {"0.running_mean": torch.ones(4), "0.running_var": torch.ones(4)}


def test_buffers_of_the_network_are_read():
    read = read_buffers(save(BUFFERS), "prepared.safetensors", NETWORK)
    assert read.keys() == BUFFERS.keys()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        save(BUFFERS)[:-4],
        save({"0.running_mean": torch.ones(5)}),
        save({"0.running_mean": torch.ones(4, dtype=torch.int64)}),
        save({"0.weight": torch.ones(4)}),
        save({"1.running_mean": torch.ones(4)}),
        save({"": torch.ones(4)}),
        save({"x" * 5000: torch.ones(4)}),
        save({"a\nb": torch.ones(4)}),
    ],
)
def test_what_is_no_buffer_of_the_network_is_refused_in_one_line(content):
    with pytest.raises(RunError, match=r"must be buffers of the backbone, prepared") as raised:
        read_buffers(content, "prepared.safetensors", NETWORK)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_refused_file_changes_no_network():
    before = load(save(NETWORK.state_dict()))
    with pytest.raises(RunError):
        read_buffers(save({**BUFFERS, "0.more": torch.ones(1)}), "prepared.safetensors", NETWORK)
    assert all(torch.equal(before[name], now) for name, now in NETWORK.state_dict().items())
