"""Adapters of PEFT without low rank, of layers that are not called, and their import."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.deltas.apply import tuned
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.from_peft import import_peft
from autotune.errors import ArtifactError
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.sources import find_choices

from .subjects import random_artifact

WITHOUT = {
    "empty": None,
    "all": Choice.of("subtune", what="all"),
    "norms": Choice.of("subtune", what="norms"),
    "scale": Choice.of("scale"),
    "sparse": Choice.of("sparse", k=9, by="random"),
}


class Reading(nn.Module):
    """Attention that reads the weight of `qkv` without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Net(nn.Module):
    """Tokens, one block and a head."""

    def __init__(self, block: nn.Module | None = None, classes: int = 4) -> None:
        super().__init__()
        self.emb, self.block = nn.Embedding(12, 16), block or Reading()
        self.norm, self.mid, self.head = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mid(self.norm(self.block(self.emb(tokens))).mean(1)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


def subject(network: nn.Module, choice: Choice | None, *names: str) -> Subject:
    tokens = InputDescription(shape=(5,), dtype="int64")
    backbone = describe(network.eval(), source="test", family="any", head="head", input=tokens)
    settings = read_settings({"budget": "100%", "space": "any", "granularity": "layer"})
    _, units = find_choices(settings, backbone, backbone.input)
    plan = Plan(dict.fromkeys(names, choice) if choice else {})
    return Subject(backbone, random_artifact(backbone, units, plan, False), settings)


@pytest.mark.parametrize("choice", WITHOUT.values(), ids=WITHOUT)
def test_a_plan_without_low_rank_is_an_adapter_too(choice, tmp_path):
    torch.manual_seed(0)
    exported = subject(Net(), choice, "norm")
    assert written(FORMATS.load("peft")(), exported, tmp_path / "peft") <= 1e-5
    model = PeftModel.from_pretrained(exported.bare(), str(tmp_path / "peft")).eval()
    torch.testing.assert_close(model(exported.inputs()), exported.outputs())


@pytest.mark.parametrize(
    ("block", "layer"),
    [(Reading, "block.qkv"), (encoder, "block.layers.0.linear1")],
    ids=["reads a weight", "fast path"],
)
def test_a_layer_that_is_not_called_is_stored_whole_and_named(block, layer, tmp_path, caplog):
    torch.manual_seed(0)
    exported = subject(Net(block()), Choice.of("lowrank", rank=2), layer, "mid")
    with caplog.at_level(logging.WARNING, "autotune"):
        assert written(FORMATS.load("peft")(), exported, tmp_path / "peft") <= 1e-5
    assert f"PEFT stores {layer} whole: the network reads the weight" in caplog.text


def trained(folder, network: nn.Module, zero: str = "-", **options) -> nn.Module:
    """Adapter that PEFT made and some training changed, written to a folder."""
    model = get_peft_model(network, LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and zero not in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder))
    return model


def imported(folder, *, block=Reading, zero: str = "-", **options):
    """Outputs of an adapter in PEFT, and of the delta that it is imported as."""
    torch.manual_seed(0)
    network, other = Net(block()), Net(block())
    other.load_state_dict(network.state_dict())
    backbone = subject(network, None).backbone
    model, tokens = trained(folder, other, zero, **options), torch.randint(12, (6, 5))
    with tuned(backbone, import_peft(folder, backbone)):
        network.train()  # the encoder's fast path ignores LoRA
        outputs = network(tokens)
    return outputs, model.train()(tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["head"]},
        {"target_modules": ["head", "mid"], "r": 32, "lora_alpha": 3},
        {"target_modules": ["mid"], "trainable_token_indices": {"emb": [1, 5]}},
        {"target_modules": ["emb"], "modules_to_save": ["mid"]},
        {"target_modules": "all-linear", "block": encoder, "zero": "out_proj"},
        {"target_modules": ["self_attn"], "block": encoder, "zero": "out_proj"},
    ],
    ids=["head", "large rank", "tokens", "embedding", "all linear", "attention"],
)
def test_an_adapter_is_imported_exactly(options, tmp_path):
    outputs, expected = imported(tmp_path, **options)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_modules": "all-linear"}, "'base_model.model.block.layers.0.self_attn.out_proj."),
        ({"target_modules": ["self_attn"]}, "self_attn.base_layer.out_proj."),
        ({"target_parameters": ["head.weight"]}, "has target_parameters="),
    ],
)
def test_what_cannot_be_imported_exactly_is_named(options, match, tmp_path):
    with pytest.raises(ArtifactError, match=match):
        imported(tmp_path, block=encoder, **options)


def test_trained_tokens_of_a_tied_embedding_are_refused(tmp_path):
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__(classes=12)
            self.second = nn.Embedding(12, 16)
            self.second.weight = self.emb.weight

    trained(tmp_path, Tied(), target_modules=["mid"], trainable_token_indices={"emb": [1]})
    with pytest.raises(ArtifactError, match=r"emb\.token_adapter\.trainable_tokens_delta"):
        import_peft(tmp_path, subject(Tied(), None).backbone)
