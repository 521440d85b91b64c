"""Exports of networks that compute their weights keep this, or name what cannot be kept."""

from __future__ import annotations

import pytest
import torch
from deltas.parametrized import ALL, BOUND, CHANGES, EXACT, SUBTUNE, network, subject
from safetensors.torch import load_file
from torch.nn.utils import parametrizations

from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import written
from autotune.errors import MergeError

from .subjects import CLASSES


def merged_into_a_fresh_network(wrap, made, path):
    """Network of a user who has the architecture alone, with the merged weights."""
    fresh = network(wrap, CLASSES)
    tensors = load_file(path)
    assert [(k, t.shape, t.dtype) for k, t in fresh.state_dict().items()] == [
        (k, tensors[k].shape, tensors[k].dtype) for k in fresh.state_dict()
    ]
    fresh.load_state_dict(tensors, strict=True)
    return fresh


@pytest.mark.parametrize("choice", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("wrap", EXACT.values(), ids=EXACT)
def test_a_merged_state_dict_fits_the_users_own_network(wrap, choice, tmp_path):
    tuned = subject(network(wrap), choice)
    written(FORMATS.load("merged")(), tuned, tmp_path / "merged")
    fresh = merged_into_a_fresh_network(wrap, tuned, tmp_path / "merged")
    torch.testing.assert_close(fresh(tuned.inputs()), tuned.outputs(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_sub_tuned_weights_keep_every_parametrization(wrap, tmp_path):
    tuned = subject(network(wrap), SUBTUNE)
    assert written(FORMATS.load("merged")(), tuned, tmp_path / "merged") <= 1e-6
    fresh = merged_into_a_fresh_network(wrap, tuned, tmp_path / "merged")
    torch.testing.assert_close(fresh(tuned.inputs()), tuned.outputs(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", [CHANGES["scale"], SUBTUNE], ids=["scale", "subtune"])
def test_pruned_weights_stay_pruned(choice, tmp_path):
    tuned = subject(network(BOUND["pruning"]), choice)
    written(FORMATS.load("merged")(), tuned, tmp_path / "merged")
    fresh = merged_into_a_fresh_network(BOUND["pruning"], tuned, tmp_path / "merged")
    torch.testing.assert_close(fresh(tuned.inputs()), tuned.outputs(), rtol=1e-5, atol=1e-5)
    assert (fresh[0][0].weight == 0).sum() >= 38


@pytest.mark.parametrize("wrap", BOUND.values(), ids=BOUND)
def test_low_rank_that_cannot_be_kept_is_refused_in_one_line(wrap, tmp_path):
    tuned = subject(network(wrap), CHANGES["lowrank"])
    with pytest.raises(MergeError, match=r"of 0\.0\.weight cannot .* Export as module or onnx"):
        written(FORMATS.load("merged")(), tuned, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", [CHANGES["lowrank"], SUBTUNE], ids=["lowrank", "subtune"])
@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_an_adapter_of_peft_adds_to_the_weight_that_is_used(wrap, choice, tmp_path):
    tuned = subject(network(wrap), choice)
    assert written(FORMATS.load("peft")(), tuned, tmp_path / "peft") <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tuned.pt2", "tuned.onnx"])
@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_traced_exports_compute_the_same(wrap, form, tmp_path):
    kind = {"tuned.pt2": "module", "tuned.onnx": "onnx"}[form]
    tuned = subject(network(wrap), CHANGES["lowrank"])
    assert written(FORMATS.load(kind)(), tuned, tmp_path / form) <= 1e-5


def test_a_traced_export_computes_the_same(tmp_path):
    tuned = subject(network(parametrizations.weight_norm), CHANGES["lowrank"])
    assert written(FORMATS.load("module")(), tuned, tmp_path / "tuned.pt2") <= 1e-5
