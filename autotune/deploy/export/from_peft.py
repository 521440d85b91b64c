"""Import of a PEFT adapter as a delta."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.units import Unit
from autotune.deltas.artifact import Artifact
from autotune.deltas.attach import Deltas
from autotune.deltas.kernels import rank_of
from autotune.errors import ArtifactError
from autotune.problem.plan import Choice, Plan

ROOT = "base_model.model."
"""Prefix that PEFT adds to the names of modules."""

_FACTORS = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?")
_PLAIN = {
    "use_dora": (False,),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Options and their values in plain LoRA.

With any other value the adapter computes a different function or also changes the backbone.
"""


@dataclass
class _Adapter:
    """Tensors of an adapter, by layer."""

    factors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Layer → factors `a` (rank, columns) and `b` (rows, rank); `b` includes the scaling."""

    whole: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Layer → parameters and buffers of a module that is stored whole."""


_MISFITS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that tensors of an unrelated or damaged adapter cause."""


def import_peft(folder: Path | str, backbone: Backbone) -> Artifact:
    """Convert a plain LoRA adapter to a delta on `backbone`.

    Every layer becomes one unit: LoRA layers use `lowrank`, modules of `modules_to_save` use
    `subtune-all`. Normalisation statistics of saved modules become prepared buffers, and a saved
    head becomes the head of the delta. Raises `ArtifactError` if the files are damaged, do not fit
    the backbone, or use a method other than plain LoRA.
    """
    config, tensors = _read(Path(folder))
    network, prefix = backbone.network, backbone.head
    try:
        adapter = _adapter(config, tensors, str(folder))
        head = adapter.whole.pop(prefix, dict(network.get_submodule(prefix).state_dict()))
        return _artifact(backbone, adapter, head, str(folder))
    except ArtifactError:
        raise
    except _MISFITS as error:
        raise ArtifactError(
            f"An adapter must fit its backbone, {folder} does not fit {backbone.source} "
            f"({error}). Use the backbone it was trained on."
        ) from error


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            "An adapter is a folder with adapter_config.json and adapter_model.safetensors, "
            f"{folder} is not ({error}). Check the path."
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ArtifactError(f"Only LoRA adapters can be imported, {folder} is not one.")
    if unsupported := [k for k, plain in _PLAIN.items() if config.get(k, plain[0]) not in plain]:
        raise ArtifactError(
            f"Only plain LoRA can be imported, {folder} has "
            f"{unsupported[0]}={config[unsupported[0]]!r}. "
            "Merge it with PEFT and load the merged weights into the backbone."
        )
    return config, tensors


def _adapter(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> _Adapter:
    adapter = _Adapter()
    for key, tensor in tensors.items():
        name = key.removeprefix(ROOT)
        if match := _FACTORS.fullmatch(name):
            layer, embedding, which, _ = match.groups()
            # For embeddings PEFT stores A (rank, words) and B (width, rank), while the kernel is
            # (words, width): the factors swap roles and are transposed.
            factor = {"A": "b", "B": "a"}[which] if embedding else which.lower()
            value = tensor.T if embedding else tensor
            adapter.factors.setdefault(layer, {})[factor] = value
        elif ".lora_" in name:
            raise ArtifactError(f"Only plain LoRA can be imported, {source} has {name!r}.")
        else:
            layer, _, attribute = name.rpartition(".")
            adapter.whole.setdefault(layer, {})[attribute] = tensor
    for layer, pair in adapter.factors.items():
        if set(pair) != {"a", "b"}:
            raise ArtifactError(f"A LoRA layer has two factors, {layer} in {source} has one.")
        a, b = pair["a"].flatten(1), pair["b"].flatten(1)
        adapter.factors[layer] = {"a": a, "b": b * _scaling(config, layer, len(a))}
    return adapter


def _scaling(config: Mapping[str, Any], layer: str, rank: int) -> float:
    alphas = config.get("alpha_pattern") or {}
    matching = [alpha for key, alpha in alphas.items() if _matches(key, layer)]
    alpha = float([*matching, config.get("lora_alpha", rank)][0])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(key: str, layer: str) -> bool:
    """Whether a key of `alpha_pattern` is the end of a layer's name, or all of it after `^`."""
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"the pattern {key!r} is not the name of a layer")
    return layer == name or (not key.startswith("^") and layer.endswith(f".{name}"))


def _artifact(
    backbone: Backbone, adapter: _Adapter, head: Mapping[str, Tensor], source: str
) -> Artifact:
    network = backbone.network
    buffers, trained = _split(network, adapter.whole)
    choices = {
        **{layer: Choice.of("lowrank", rank=len(p["a"])) for layer, p in adapter.factors.items()},
        **{layer: Choice.of("subtune", what="all") for layer in trained},
    }
    units = [_unit(network, layer) for layer in choices]
    plan = Plan(choices)
    deltas = Deltas(network, units, plan, seed=0)
    try:
        _fill(deltas, network, adapter.factors, trained)
        stored = {f"delta/{name}": t.detach().clone() for name, t in deltas.tensors().items()}
    finally:
        deltas.detach()
    tensors = {
        **stored,
        **{f"head/{name}": tensor for name, tensor in head.items()},
        **{f"buffer/{name}": tensor for name, tensor in buffers.items()},
    }
    classes = len(head["weight"])
    header = {
        "input": backbone.input.to_json() if backbone.input else None,
        "cost": asdict(deltas.predicted),
        "metrics": {},
        "task": {"source": f"peft:{source}", "classes": [str(i) for i in range(classes)]},
        "about": {"backbone": backbone.source, "head": backbone.head},
    }
    ordered = [unit for unit in units if unit.name in plan.choices]
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return Artifact(plan, tuple(ordered), backbone.fingerprint, contiguous, header)


def _split(
    network: nn.Module, whole: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Buffers that differ from the backbone's, and parameters of layers in which any differs."""
    buffers, trained = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for layer, tensors in whole.items():
        module = network.get_submodule(layer)
        bare_buffers = dict(module.named_buffers(recurse=False))
        parameters = dict(module.named_parameters(recurse=False))
        if mismatched := sorted(set(tensors) ^ {*bare_buffers, *parameters}):
            raise ValueError(f"{layer}.{mismatched[0]} is missing or unexpected")
        for name, tensor in tensors.items():
            if name in bare_buffers and not torch.equal(bare_buffers[name], tensor):
                buffers[f"{layer}.{name}"] = tensor
        if not all(torch.equal(p, tensors[name]) for name, p in parameters.items()):
            trained[layer] = {name: tensors[name] for name in parameters}
    return buffers, trained


def _unit(network: nn.Module, layer: str) -> Unit:
    named = network.get_submodule(layer).named_parameters(recurse=False)
    return Unit(layer, tuple(f"{layer}.{name}" for name, _ in named))


def _fill(
    deltas: Deltas,
    network: nn.Module,
    factors: Mapping[str, Mapping[str, Tensor]],
    trained: Mapping[str, Mapping[str, Tensor]],
) -> None:
    with torch.no_grad():
        for layer, pair in factors.items():
            parts: Any = deltas.by_place[layer, "lowrank"].parts
            product = parts[f"{layer}.weight".replace(".", "/")]
            pairs = [(pair["a"], product.a), (pair["b"], product.b)]
            if any(source.shape != target.shape for source, target in pairs):
                raise ValueError(f"the shapes of the factors of {layer} do not match its kernel")
            if len(pair["a"]) != rank_of(pair["b"] @ pair["a"], len(pair["a"])):
                raise ValueError(f"the rank {len(pair['a'])} of {layer} exceeds that of its kernel")
            product.a.copy_(pair["a"])
            product.b.copy_(pair["b"])
        for layer, tensors in trained.items():
            parts = deltas.by_place[layer, "subtune"].parts
            for name, tensor in tensors.items():
                target = parts[f"{layer}.{name}".replace(".", "/")]
                if target.shape != tensor.shape:
                    raise ValueError(f"the shape of {layer}.{name} differs from the backbone's")
                target.copy_(tensor)
