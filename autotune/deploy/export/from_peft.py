"""Import of a PEFT adapter as a delta."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from autotune.backbones.base import Backbone
from autotune.backbones.heads.copies import n_outputs
from autotune.backbones.layer_names import layer_name
from autotune.backbones.units import Unit
from autotune.deltas.artifact import Artifact
from autotune.deltas.attach import Deltas
from autotune.errors import ArtifactError
from autotune.problem.plan import Choice, Plan

ROOT = "base_model.model."
"""Prefix that PEFT adds to the names of modules."""

_FACTORS = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?")
_TOKENS = ".token_adapter.trainable_tokens_delta"
_PLAIN = {
    "use_dora": (False,),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
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

    tokens: dict[str, Tensor] = field(default_factory=dict)
    """Embedding → its trained rows, (tokens, width)."""

    keys: dict[str, str] = field(default_factory=dict)
    """Layer → a key of its factors or rows in the adapter's file, for errors."""


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

    Every layer becomes one unit: LoRA layers use `lowrank`, modules of `modules_to_save` and
    embeddings with trained tokens use `subtune-all`. Normalisation statistics of saved modules
    become prepared buffers. A saved head, or one with LoRA, becomes the head of the delta. Raises
    `ArtifactError` if the files are damaged, do not fit the backbone, or contain a change that a
    delta cannot represent exactly, naming its key.
    """
    config, tensors = _read(Path(folder))
    network, prefix = backbone.network, backbone.head
    try:
        adapter = _adapter(config, tensors, str(folder))
        _write_tokens(config, adapter, network)
        _drop_unused(adapter, network)
        head = _head(adapter, network, prefix)
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
            layer = layer.replace(".base_layer.", ".")  # of a wrapped `nn.MultiheadAttention`
            adapter.keys[layer] = key
            # For embeddings PEFT stores A (rank, words) and B (width, rank), while the kernel is
            # (words, width): the factors swap roles and are transposed.
            factor = {"A": "b", "B": "a"}[which] if embedding else which.lower()
            value = tensor.T if embedding else tensor
            adapter.factors.setdefault(layer, {})[factor] = value
        elif name.endswith(_TOKENS):
            layer = name.removesuffix(_TOKENS)
            adapter.tokens[layer], adapter.keys[layer] = tensor, key
        elif ".lora_" in name:
            raise ArtifactError(f"Only plain LoRA can be imported, {source} has {name!r}.")
        else:
            layer = layer_name(name)
            attribute = name.removeprefix(f"{layer}.")
            adapter.whole.setdefault(layer, {})[attribute] = tensor
    for layer, pair in adapter.factors.items():
        if set(pair) != {"a", "b"}:
            raise ArtifactError(f"A LoRA layer has two factors, {layer} in {source} has one.")
        a, b = pair["a"].flatten(1), pair["b"].flatten(1)
        adapter.factors[layer] = _reduced(a, b * _scaling(config, layer, len(a)))
    return adapter


def _reduced(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The same product b·a with a rank that does not exceed that of the kernel."""
    rows, columns = len(b), a.shape[1]
    if len(a) <= min(rows, columns):
        return {"a": a, "b": b}
    if rows <= columns:
        return {"a": b @ a, "b": torch.eye(rows).to(b)}
    return {"a": torch.eye(columns).to(a), "b": b @ a}


def _write_tokens(config: Mapping[str, Any], adapter: _Adapter, network: nn.Module) -> None:
    """Turn trained tokens into whole embeddings with these rows."""
    for layer, rows in adapter.tokens.items():
        embedding: Any = network.get_submodule(layer)
        if layer in adapter.factors or _is_tied(embedding.weight, network):
            raise ArtifactError(
                "Trained tokens can be imported for an embedding that changes nowhere else, "
                f"{adapter.keys[layer]!r} has LoRA too or is tied to another layer. "
                "Merge the adapter with PEFT and load the merged weights into the backbone."
            )
        changed = embedding.weight.detach().clone()
        changed[torch.tensor(_indices(config, layer))] = rows.to(changed)
        adapter.whole[layer] = {**embedding.state_dict(), "weight": changed}


def _indices(config: Mapping[str, Any], layer: str) -> list[int]:
    indices = config.get("trainable_token_indices")
    if not isinstance(indices, dict):
        return list(indices)  # type: ignore[arg-type]
    return next(list(i) for name, i in indices.items() if f".{layer}".endswith(f".{name}"))


def _is_tied(weight: Tensor, network: nn.Module) -> bool:
    names = network.named_parameters(remove_duplicate=False)
    return sum(parameter is weight for _, parameter in names) > 1


def _drop_unused(adapter: _Adapter, network: nn.Module) -> None:
    """Leave out LoRA without a change in output projections of `nn.MultiheadAttention`.

    That layer reads the weight of its output projection, so PEFT applies LoRA there not at all or
    twice: only a product of zero can be imported.
    """
    for layer, pair in list(adapter.factors.items()):
        if isinstance(network.get_submodule(layer), NonDynamicallyQuantizableLinear):
            if pair["a"].any() and pair["b"].any():
                raise ArtifactError(
                    "LoRA in the output projection of nn.MultiheadAttention cannot be imported, as "
                    f"PEFT does not add it once, the adapter has {adapter.keys[layer]!r}. "
                    "Train the adapter without it."
                )
            del adapter.factors[layer]


def _head(adapter: _Adapter, network: nn.Module, path: str) -> Mapping[str, Tensor]:
    """Tensors of the head, with its LoRA added."""
    layer = network.get_submodule(path)
    head = adapter.whole.pop(path, dict(layer.state_dict()))
    if (pair := adapter.factors.pop(path, None)) is None:
        return head
    if "weight" not in head:
        raise ArtifactError(
            f"LoRA on a head with a parametrization cannot be imported, the adapter has "
            f"{adapter.keys[path]!r}. Store the head whole, in modules_to_save."
        )
    weight = head["weight"]
    return {**head, "weight": weight + (pair["b"] @ pair["a"]).to(weight).view_as(weight)}


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
        _fill(deltas, adapter, trained)
        stored = {f"delta/{name}": t.detach().clone() for name, t in deltas.tensors().items()}
    finally:
        deltas.detach()
    tensors = {
        **stored,
        **{f"head/{name}": tensor for name, tensor in head.items()},
        **{f"buffer/{name}": tensor for name, tensor in buffers.items()},
    }
    classes = n_outputs(network.get_submodule(backbone.head), head)
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
        bare_buffers = _named(network, layer, nn.Module.named_buffers)
        parameters = _named(network, layer, nn.Module.named_parameters)
        if mismatched := sorted(set(tensors) ^ {*bare_buffers, *parameters}):
            raise ValueError(f"{layer}.{mismatched[0]} is missing or unexpected")
        for name, tensor in tensors.items():
            if name in bare_buffers and not torch.equal(bare_buffers[name], tensor):
                buffers[f"{layer}.{name}"] = tensor
        if not all(torch.equal(p, tensors[name]) for name, p in parameters.items()):
            trained[layer] = {name: tensors[name] for name in parameters}
    return buffers, trained


def _unit(network: nn.Module, layer: str) -> Unit:
    names = _named(network, layer, nn.Module.named_parameters)
    return Unit(layer, tuple(f"{layer}.{name}" for name in names))


def _named(network: nn.Module, layer: str, named: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """Parameters or buffers of a layer, those of its parametrizations included."""
    tensors = named(network.get_submodule(layer))
    return {name: t for name, t in tensors if layer_name(f"{layer}.{name}") == layer}


def _fill(deltas: Deltas, adapter: _Adapter, trained: Mapping[str, Mapping[str, Tensor]]) -> None:
    with torch.no_grad():
        for layer, pair in adapter.factors.items():
            parts: Any = deltas.by_place[layer, "lowrank"].parts
            if len(parts) != 1:
                raise ArtifactError(
                    "LoRA can be imported for layers with one kernel, the adapter has "
                    f"{adapter.keys[layer]!r}. Train the adapter without it."
                )
            (product,) = parts.values()
            pairs = [(pair["a"], product.a), (pair["b"], product.b)]
            if any(source.shape != target.shape for source, target in pairs):
                raise ValueError(f"the shapes of the factors of {layer} do not match its kernel")
            product.a.copy_(pair["a"])
            product.b.copy_(pair["b"])
        for layer, tensors in trained.items():
            parts = deltas.by_place[layer, "subtune"].parts
            for name, tensor in tensors.items():
                target = parts[f"{layer}.{name}".replace(".", "/")]
                if target.shape != tensor.shape:
                    raise ValueError(f"the shape of {layer}.{name} differs from the backbone's")
                target.copy_(tensor)
