"""Adapt a small language model to classify questions: tokens instead of images.

autotune search --backbone python:examples/text.py:model
    --task python:examples/text.py:questions --budget 5% --trials 10 --epochs 5"""

import os
import sys

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, arange, cat, nn, outer

import autotune

DATA = os.getenv("AUTOTUNE_DATA") or sys.exit("AUTOTUNE_DATA must name the folder with trec.npz.")


class Llama(nn.ModuleDict):
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, 64), padded with 0 → logits from their mean state (arXiv 2302.13971)."""
        x, real = self.embed_tokens(tokens), (tokens != 0).unsqueeze(2)
        angles = outer(arange(64), cat([sign * 1e4 ** (arange(8) / -8) for sign in (-1, 1)])).to(x)
        for layer in self.layers:
            y, heads = layer.input_layernorm(x), layer.self_attn
            q, k, v = (heads[f"{i}_proj"](y).unflatten(2, (4, 16)).transpose(1, 2) for i in "qkv")
            q, k = (z * angles.cos() + z.roll(8, -1) * angles.sin() for z in (q, k))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + heads.o_proj(y.transpose(1, 2).flatten(2))
            y, mlp = layer.post_attention_layernorm(x), layer.mlp
            x = x + mlp.down_proj(nn.functional.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        return self.classifier((self.norm(x) * real).sum(1) / real.sum(1))


def model() -> nn.Module:
    layers = nn.ModuleList(nn.Module() for _ in range(4))
    for layer in layers:
        layer.input_layernorm, layer.post_attention_layernorm = (nn.RMSNorm(64, 1e-5) for _ in "12")
        layer.self_attn = nn.ModuleDict({f"{i}_proj": nn.Linear(64, 64, False) for i in "qkvo"})
        layer.mlp = nn.ModuleDict({f"{i}_proj": nn.Linear(64, 172, False) for i in ("gate", "up")})
        layer.mlp["down_proj"] = nn.Linear(172, 64, False)
    body = {"embed_tokens": nn.Embedding(512, 64), "layers": layers, "norm": nn.RMSNorm(64, 1e-5)}
    nn.ModuleDict(body).load_state_dict(load_file(f"{DATA}/aidreams260k.safetensors"))
    return Llama({**body, "classifier": nn.Linear(64, 6)})


def questions() -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(f"{DATA}/trec.npz") as z:
        return [(z[f"{p}_ids"][:1000, :64], z[f"{p}_y"][:1000]) for p in ("train", "val", "test")]


def main(out: str | None = None, *, trials: int = 10, epochs: int = 5, **settings: int) -> None:
    backbone, task = (f"python:{__file__}:{name}" for name in ("model", "questions"))
    study = autotune.search(backbone, task, "5%", trials=trials, epochs=epochs, out=out, **settings)
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")
    print(f"A linear probe: test {study.baselines['probe'].test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
