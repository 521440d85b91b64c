"""Weights files of other programs: entries of checkpoints, and prefixes of names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autotune.backbones.weights.loading import load_weights, read_weights
from autotune.errors import BackboneError


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
    return nn.ModuleDict({"body": body, "head": nn.Linear(8, 3)})


STATE = make(1).state_dict()
NESTED = ("model", "model_state_dict", "state_dict", "state_dict_ema", "module")
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "module._orig_mod.", "model.backbone.")


def prefixed(prefix: str, state: Mapping[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(tmp_path: Path, content: Any, suffix: str = ".pth") -> nn.Module:
    file = tmp_path / f"weights{suffix}"
    torch.save(content, file)
    return load_weights(make(), read_weights(str(file)), source=str(file))


def is_loaded(network: nn.Module) -> bool:
    return all(torch.equal(tensor, STATE[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_an_incomplete_download_is_refused_in_one_line(tmp_path, kept):
    file = tmp_path / "weights.pth"
    torch.save({"large": torch.ones(9000)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BackboneError, match="must hold tensors alone") as raised:
        read_weights(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("entry", NESTED)
def test_a_state_dict_is_read_from_an_entry_of_a_checkpoint(tmp_path, entry, caplog):
    with caplog.at_level(logging.INFO, "autotune"):
        assert is_loaded(loaded(tmp_path, {"epoch": 3, entry: STATE, "optimizer": {}}))
    (line,) = caplog.messages
    assert f"its entry '{entry}'" in line and "\n" not in line


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("entry", ["", "state_dict"])
def test_prefixes_of_all_names_are_removed_and_mentioned(tmp_path, prefix, entry, caplog):
    state = prefixed(prefix)
    with caplog.at_level(logging.INFO, "autotune"):
        assert is_loaded(loaded(tmp_path, {entry: state} if entry else state))
    (line,) = caplog.messages
    assert f"({prefix}body.0.weight is body.0.weight)" in line


def test_safetensors_with_prefixes_are_read_too(tmp_path):
    file = str(tmp_path / "weights.safetensors")
    save_file(prefixed("module."), file)
    assert is_loaded(load_weights(make(), read_weights(file), source=file))


def test_weights_in_a_bin_file_are_read(tmp_path):
    assert is_loaded(loaded(tmp_path, STATE, ".bin"))


def test_plain_weights_are_read_without_a_word(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "autotune"):
        assert is_loaded(loaded(tmp_path, STATE))
    assert not caplog.messages


def test_a_part_that_was_compiled_has_its_names_inside(tmp_path):
    state = {name.replace("body.", "body._orig_mod."): t for name, t in STATE.items()}
    assert is_loaded(loaded(tmp_path, state))


def test_a_prefix_may_be_missing_from_the_head(tmp_path):
    state = {n if n.startswith("head") else f"backbone.{n}": t for n, t in STATE.items()}
    assert is_loaded(loaded(tmp_path, state))


def test_of_several_entries_the_first_that_matches_is_read_and_the_others_are_named(
    tmp_path, caplog
):
    averaged = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    with caplog.at_level(logging.INFO, "autotune"):
        assert is_loaded(loaded(tmp_path, {"state_dict_ema": averaged, "state_dict": STATE}))
    assert "not read: state_dict_ema" in caplog.messages[0]
    other = {"model": {"x": torch.zeros(1)}, "state_dict_ema": STATE}
    assert is_loaded(loaded(tmp_path, other))


def test_names_that_match_nothing_are_shown_beside_the_expected_ones(tmp_path):
    with pytest.raises(BackboneError) as caught:
        loaded(tmp_path, {"model": {f"net.{name}": tensor for name, tensor in STATE.items()}})
    message = str(caught.value)
    assert "net.body.0.weight, net.body.0.bias" in message
    assert "the network's with body.0.weight, body.0.bias" in message
    assert "\n" not in message


def test_a_prefix_that_does_not_make_all_names_match_is_not_removed(tmp_path):
    state = {f"module.{name}": t for name, t in STATE.items() if name != "body.0.bias"}
    with pytest.raises(BackboneError, match=r"begin with module\.body\.0\.weight"):
        loaded(tmp_path, state)


def test_names_that_would_clash_without_a_prefix_are_left_alone(tmp_path):
    with pytest.raises(BackboneError, match=r"unexpected tensors \(6\), first model\.body"):
        loaded(tmp_path, {**STATE, **prefixed("model.")})


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], {"weights": STATE}, {}])
def test_a_checkpoint_without_a_known_entry_is_refused(tmp_path, content):
    with pytest.raises(BackboneError, match="must hold a state dict"):
        loaded(tmp_path, content)
