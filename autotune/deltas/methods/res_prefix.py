"""Res-Prefix and Res-Prompt: attention to a few learned keys and values, in parallel form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.precision import LOW, widened
from autotune.deltas.base import check_size, is_off, scaled
from autotune.deltas.paths import PathDelta
from autotune.deltas.site import Site


class ResPrefix(PathDelta):
    """(1-λ)·Attn(Q, K, V) + λ·Attn(Q, K_pre, V_pre), λ computed, K_pre and V_pre learned.

    λ = Σ exp(Q·K_preᵀ) / (Σ exp(Q·Kᵀ) + Σ exp(Q·K_preᵀ)), so that this is prefix tuning exactly.
    The term that λ adds is multiplied by a learned gate per head, as in LLaMA-Adapter: it starts
    at 0, so that the change is zero at the start; at 1 it is the equation. K_pre and V_pre are
    (length, width).
    """

    paper = "Res-Tuning (arXiv 2310.19859), LLaMA-Adapter (arXiv 2303.16199)"
    what = "keys and values of learned tokens in attention"
    where = "torch's attention layers"
    inference = "a second attention"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = check_size("res_prefix", "length", length)

    def build(self, site: Site) -> nn.Module | None:
        made = [self.tokens(layer) for layer in _attentions(site)]
        return nn.ModuleList(made) if made else None

    def tokens(self, layer: nn.MultiheadAttention) -> nn.Module:
        """Learned module for one attention layer."""
        return _Prefix(layer, self.length)

    def hook(self, site: Site) -> list[Any]:
        assert isinstance(self.path, nn.ModuleList)
        pairs = zip(_attentions(site), self.path, strict=True)
        return [
            layer.register_forward_hook(self._added(tokens), with_kwargs=True)
            for layer, tokens in pairs
        ]

    def _added(self, tokens: Any) -> Any:
        def hook(layer: Any, args: Any, kwargs: Any, output: Any) -> Any:
            if is_off(self.gate):
                return output
            change = tokens(layer, _bound(args, kwargs))
            added = output[0] + scaled(change, self.gate)
            return (added.to(output[0].dtype) if output[0].dtype in LOW else added, *output[1:])

        return hook


class ResPrompt(ResPrefix):
    """Res-Prefix whose keys and values the frozen projections compute from learned tokens.

    The tokens are (length, width), half the cost of a prefix of the same length.
    """

    what = "learned tokens that attention sees through frozen projections"

    def __init__(self, length: int) -> None:
        super().__init__(check_size("res_prompt", "length", length))

    def tokens(self, layer: nn.MultiheadAttention) -> nn.Module:
        return _Prompt(layer, self.length)


def _attentions(site: Site) -> list[nn.MultiheadAttention]:
    """Layers that project keys and values from one width and add none of their own."""
    modules = [site.network.get_submodule(c.path) for c in site.parts(nn.MultiheadAttention)]
    layers = [layer for layer in modules if isinstance(layer, nn.MultiheadAttention)]
    plain = [a for a in layers if a.bias_k is None and not a.add_zero_attn]
    return [a for a in plain if a.kdim == a.vdim]


class _Prefix(nn.Module):
    def __init__(self, layer: nn.MultiheadAttention, length: int) -> None:
        super().__init__()
        # standard deviation 1, like normalised features: with 0.02 the gates opened slowly
        self.key = nn.Parameter(torch.randn(length, layer.embed_dim))
        self.value = nn.Parameter(torch.randn(length, layer.embed_dim))
        self.head_gate = nn.Parameter(torch.zeros(layer.num_heads))

    def added(self, layer: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
        """Learned keys and values, (length, width) each."""
        return self.key, self.value

    def forward(self, layer: nn.MultiheadAttention, arguments: dict[str, Any]) -> Tensor:
        """Change of the layer's output by the added tokens, in the output's shape."""
        q, k, v = (_heads(widened(x), layer) for x in _projected(layer, arguments))
        k_pre, v_pre = (_heads(x[None], layer) for x in self.added(layer))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        mask = _mask(layer, arguments, scores)
        scores = scores if mask is None else scores + mask
        scores_pre = q @ k_pre.mT / math.sqrt(q.shape[-1])
        share = torch.sigmoid(scores_pre.logsumexp(-1) - scores.logsumexp(-1))[..., None]
        difference = scores_pre.softmax(-1) @ v_pre - scores.softmax(-1) @ v
        gated = self.head_gate.view(-1, 1, 1) * share * difference
        out = F.linear(gated.transpose(1, 2).flatten(2), widened(layer.out_proj.weight))
        return out if layer.batch_first else out.transpose(0, 1)


class _Prompt(_Prefix):
    def __init__(self, layer: nn.MultiheadAttention, length: int) -> None:
        super().__init__(layer, length)
        del self.key, self.value
        self.token = nn.Parameter(torch.randn(length, layer.kdim))

    def added(self, layer: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
        _, *pairs = _weights(layer)
        key, value = ((widened(w), None if b is None else widened(b)) for w, b in pairs)
        return F.linear(self.token, *key), F.linear(self.token, *value)


# positional arguments of `nn.MultiheadAttention.forward`
_NAMES = (
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
)


def _bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_NAMES, args, strict=False)), **kwargs}


def _weights(layer: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor | None]]:
    """(weight, bias) of the projections of queries, keys and values."""
    if layer._qkv_same_embed_dim:
        weights = layer.in_proj_weight.chunk(3)
    else:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    bias = layer.in_proj_bias
    biases = bias.chunk(3) if bias is not None else (None, None, None)
    return list(zip(weights, biases, strict=True))


def _projected(layer: nn.MultiheadAttention, arguments: dict[str, Any]) -> list[Tensor]:
    """Queries, keys and values (n, tokens, width)."""
    inputs = [arguments[name] for name in ("query", "key", "value")]
    if not layer.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    return [F.linear(x, *weights) for x, weights in zip(inputs, _weights(layer), strict=True)]


def _heads(x: Tensor, layer: nn.MultiheadAttention) -> Tensor:
    """(n, tokens, width) → (n, heads, tokens, width / heads)."""
    by_head: Tensor = x.unflatten(-1, (layer.num_heads, -1))
    return by_head.transpose(1, 2)


def _mask(layer: nn.MultiheadAttention, arguments: dict[str, Any], scores: Tensor) -> Tensor | None:
    """Sum of the masks, to be added to the scores (n, heads, queries, keys); None without any."""
    masks = []
    if (attention := arguments.get("attn_mask")) is not None:
        shaped = attention if attention.ndim == 2 else attention.view(-1, *scores.shape[1:])
        masks.append(_as_addend(shaped, scores))
    if (padding := arguments.get("key_padding_mask")) is not None:
        masks.append(_as_addend(padding[:, None, None, :], scores))
    return sum(masks[1:], masks[0]) if masks else None


def _as_addend(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)
