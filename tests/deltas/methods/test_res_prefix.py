"""Res-Prefix and Res-Prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.errors import PlanError
from autotune.problem.plan import Choice
from deltas.contract import PathContract
from deltas.kinds import LAYERS, WITHOUT_ATTENTION, Kind
from deltas.networks import Around, Attending, Crossing
from deltas.rig import Rig

PREFIX, PROMPT = Choice.of("res_prefix", length=2), Choice.of("res_prompt", length=3)


class TestResPrefix(PathContract):
    CHOICES = (PREFIX, PROMPT)
    TYPICAL = ("attention-batch-second", "cross-attention", "transformer")
    LEFT_ALONE: ClassVar = {choice.label: WITHOUT_ATTENTION for choice in CHOICES}


def attached(choice: Choice, make: Callable[[], nn.Module]) -> tuple[Rig, Any, Any]:
    """The rig, its attention layer and what is learned for it, the heads' gates at 1."""
    rig = Rig(Kind(lambda: Around(make()), (3, 6)))
    (delta,) = rig.attach(choice).by_place.values()
    nn.init.ones_(delta.path[0].head_gate)
    return rig, rig.network.unit.heads, delta.path[0]


def attention(layer: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's own attention on projected (n, tokens, width), and the layer's last projection."""
    heads = [x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for x in (q, k, v)]
    output = F.scaled_dot_product_attention(*heads, attn_mask=mask)
    return layer.out_proj(output.transpose(1, 2).flatten(2))


def projected(layer: Any, x: Tensor) -> list[Tensor]:
    pairs = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    return [F.linear(x, *pair) for pair in pairs]


FORBIDDEN = torch.tensor([[False, True, False], [False, False, True], [True, False, False]])
PADDED = torch.tensor([[False, False, True]] * 3 + [[False, False, False]])
MASKS = {
    "none": {},
    "bool": {"attn_mask": FORBIDDEN},
    "float": {"attn_mask": torch.linspace(-1, 1, 9).view(3, 3)},
    "for each head": {"attn_mask": torch.linspace(-1, 1, 72).view(8, 3, 3)},
    "padding": {"key_padding_mask": PADDED},
    "bool and padding": {"attn_mask": FORBIDDEN, "key_padding_mask": PADDED},
    "float padding": {"key_padding_mask": torch.linspace(-1, 1, 12).view(4, 3)},
}


def addend(attn_mask: Tensor | None = None, key_padding_mask: Tensor | None = None) -> Tensor:
    """Both masks as one that is added to scores (4, 2, 3, 3)."""
    total = torch.zeros(4, 2, 3, 3)
    shapes = (attn_mask, (-1, 2, 3, 3)), (key_padding_mask, (4, 1, 1, 3))
    for mask, shape in shapes:
        if mask is not None:
            values = torch.where(mask, -math.inf, 0.0) if mask.dtype == torch.bool else mask
            total = total + (values if values.shape == (3, 3) else values.view(shape))
    return total


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", MASKS)
def test_with_gates_of_one_it_is_attention_to_the_prefix_too(masks, batch_first):
    rig, layer, prefix = attached(PREFIX, lambda: Attending(batch_first=batch_first))
    x = rig.batch if batch_first else rig.batch.transpose(0, 1)
    output, _ = layer(x, x, x, need_weights=False, **MASKS[masks])
    q, k, v = projected(layer, rig.batch)
    k, v = (
        torch.cat([t, added.expand(4, -1, -1)], 1)
        for t, added in ((k, prefix.key), (v, prefix.value))
    )
    expected = attention(layer, q, k, v, F.pad(addend(**MASKS[masks]), (0, 2)))
    torch.testing.assert_close(output if batch_first else output.transpose(0, 1), expected)


def test_the_share_is_the_equations():
    one_head = {"num_heads": 1, "batch_first": True, "bias": False}
    rig, layer, prefix = attached(PREFIX, lambda: Attending(**one_head))
    q, k, v = F.linear(rig.batch, layer.in_proj_weight).chunk(3, -1)
    sum_of_weights, added = ((q @ keys.mT / 6**0.5).exp().sum(-1) for keys in (k, prefix.key))
    share = (added / (sum_of_weights + added))[..., None]
    both = (
        attention(layer, q, k, v),
        attention(layer, q, *(t.expand(4, -1, -1) for t in (prefix.key, prefix.value))),
    )
    expected = (1 - share) * both[0] + share * both[1]
    torch.testing.assert_close(layer(rig.batch, rig.batch, rig.batch)[0], expected)


def test_a_prompt_is_attention_to_tokens_through_the_frozen_projections():
    rig, layer, prompt = attached(PROMPT, lambda: Attending(batch_first=True))
    together = torch.cat([rig.batch, prompt.token.expand(4, -1, -1)], 1)
    q, _, _ = projected(layer, rig.batch)
    _, k, v = projected(layer, together)
    output = layer(rig.batch, rig.batch, rig.batch)[0]
    torch.testing.assert_close(output, attention(layer, q, k, v))


def test_a_prompt_has_the_width_of_what_is_attended_to():
    rig, layer, prompt = attached(PROMPT, lambda: Crossing(vdim=4))
    memory = rig.network.unit.memory
    together = torch.cat([memory, prompt.token]).expand(4, -1, -1)
    weights = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
    inputs = rig.batch, together, together
    q, k, v = (
        F.linear(x, w, b)
        for x, w, b in zip(inputs, weights, layer.in_proj_bias.chunk(3), strict=True)
    )
    torch.testing.assert_close(rig.network.unit(rig.batch), attention(layer, q, k, v))


@pytest.mark.parametrize(("choice", "count"), [(PREFIX, 2 * 2 * 6 + 2), (PROMPT, 3 * 6 + 2)])
def test_costs_its_tokens_and_a_gate_a_head(choice, count):
    assert Rig(LAYERS["attention"]).attach(choice).predicted.parameters == count


@pytest.mark.parametrize("options", [{"vdim": 5}, {"vdim": 4, "add_zero_attn": True}])
@pytest.mark.parametrize("choice", [PREFIX, PROMPT])
def test_attention_that_the_equation_does_not_describe_is_refused(choice, options):
    rig = Rig(Kind(lambda: Around(Odd(**options)), (3, 6)))
    with pytest.raises(PlanError, match="has no place in 'unit'"):
        rig.attach(choice)


class Odd(Crossing):
    """Values of another width than keys, or a token that the layer adds itself."""

    def forward(self, x: Tensor) -> Tensor:
        memory = self.get_buffer("memory").expand(len(x), -1, -1)
        values = F.pad(memory, (0, self.heads.vdim - 4))
        return self.heads(x, memory, values)[0]
