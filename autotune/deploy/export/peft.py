"""Format `peft`: a PEFT adapter with LoRA layers and whole layers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from autotune.backbones.copying import copied
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.layer_names import layer_name
from autotune.deltas.apply import write_layers
from autotune.deltas.costs import new_delta
from autotune.deltas.outputs import outputs_of
from autotune.deltas.site import Slot, sites
from autotune.deploy.export.base import Format, Subject, refused
from autotune.errors import DependencyError, ExportError
from autotune.utils.distribution import install_command
from autotune.utils.events import warn

ADAPTER = "default"
ROOT = "base_model.model."
"""Prefix that PEFT adds to the names of modules."""


class Peft(Format):
    """Folder that PEFT loads: `adapter_config.json`, `adapter_model.safetensors` and a model card.

    `lowrank` becomes LoRA with one rank per layer and alpha = rank, so the scaling is 1. All other
    changed layers, prepared normalisation layers and the head are stored whole in
    `modules_to_save`. Raises `ExportError`, naming the units, for deltas that add a path and for
    parameters of modules that PEFT cannot store whole.
    """

    file = "adapter"
    is_folder = True

    def write(self, subject: Subject, path: Path) -> None:
        _require()
        with refused("peft", "Export the delta, or merged, instead."):
            content = _content(subject)
            model = _with_adapter(subject, content)
            _fill(model, content, subject)
            model.save_pretrained(str(path), safe_serialization=True)
        _name_base(path / "adapter_config.json", subject)
        (path / "README.md").write_text(_card(subject, content.whole))

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        from peft import PeftModel

        with refused("peft", "Export the delta, or merged, instead."):
            model = PeftModel.from_pretrained(subject.bare(), str(path))
            with evaluating(model):
                outputs: Tensor = logits_of(model(subject.inputs()))
        return outputs


@dataclass(frozen=True, eq=False)
class _Product:
    """Low-rank change of the kernel of one layer: A (rank, columns) and B (rows, rank)."""

    layer: str
    a: Tensor
    b: Tensor


@dataclass
class _Content:
    """Contents of an adapter, and the changes that an adapter cannot express."""

    products: list[_Product] = field(default_factory=list)
    whole: dict[str, None] = field(default_factory=dict)
    """Modules whose tuned state is stored whole; a dict used as an ordered set."""

    refused: list[str] = field(default_factory=list)

    uncalled: list[str] = field(default_factory=list)
    """Layers of which the network reads the weight without calling them, so that LoRA in them has
    no effect."""

    @property
    def ranks(self) -> dict[str, int]:
        """Layer → rank."""
        return {p.layer: len(p.a) for p in self.products}

    def close(self, modules: Iterable[str], names: list[str]) -> None:
        """Add whole modules, and all modules that PEFT selects with them.

        PEFT matches `modules_to_save` by the end of a name, so `conv1` selects `layer1.conv1` too.
        """
        ends = (*self.whole, *modules)
        matching = [name for name in names if name.endswith(ends)]
        inside = tuple(f"{name}." for name in matching)
        self.whole = dict.fromkeys(name for name in matching if not name.startswith(inside))
        kept = [p for p in self.products if not p.layer.startswith(inside)]
        self.products = [p for p in kept if p.layer not in self.whole]

    def add_whole(self, unit: str, slot: Slot, path: str) -> None:
        """Store the module of a parameter whole, or refuse it; `path` is that of its layer."""
        module = _saved_of(slot, path)
        if module is None:
            self.refused.append(f"{slot.name} in {unit} (not in a layer of its own)")
        else:
            self.whole[module] = None


def _takes_lora(slot: Slot) -> bool:
    """Whether LoRA in PEFT computes the same function as `lowrank` for this kernel.

    It does not in `nn.MultiheadAttention`, where PEFT up to 0.21 applies the change of the output
    projection twice, nor in convolutions that are grouped, dilated or padded with
    values other than zero.
    """
    layer = slot.layer
    if len(slot.owners) > 1 or slot.attribute != "weight" or isinstance(layer, _UNCALLED):
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and {*layer.dilation} == {1} and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear | nn.Embedding)


def _saved_of(slot: Slot, path: str) -> str | None:
    """Path of a module that contains the parameter and that PEFT can store whole, or None."""
    if isinstance(slot.layer, _UNCALLED):
        return path.rpartition(".")[0]
    children = {name for name, _ in slot.layer.named_children()} - {"parametrizations"}
    is_layer = isinstance(slot.layer, nn.MultiheadAttention) or not children
    return path if path and is_layer and len(slot.owners) == 1 else None


_UNCALLED = nn.modules.linear.NonDynamicallyQuantizableLinear
"""Output projection of `nn.MultiheadAttention`, which reads its weights and never calls it."""


def _content(subject: Subject) -> _Content:
    network, artifact = subject.backbone.network, subject.artifact
    paths = {module: layer_name(f"{path}.weight") for path, module in network.named_modules()}
    stored, content = artifact.part("delta"), _Content()
    called = _called(subject)
    for site in sites(network, artifact.units).values():
        for method in artifact.plan[site.name].methods:
            delta = new_delta(method)
            if not delta.mergeable:
                content.refused.append(f"{site.name} ({method.label})")
            for slot in delta.changes(site):
                path, prefix = paths[slot.layer], f"{site.name}/{method.name}/parts.{slot.name}"
                if method.name != "lowrank" or not _takes_lora(slot):
                    content.add_whole(site.name, slot, path)
                elif slot.layer not in called:
                    content.add_whole(site.name, slot, path)
                    content.uncalled.append(path)
                else:
                    a, b = stored[f"{prefix}.a"], stored[f"{prefix}.b"]
                    content.products.append(_Product(path, a, b))
    if content.refused:
        raise ExportError(
            f"PEFT supports low rank and whole layers, not {', '.join(content.refused)}. "
            "Export the delta, or merged, instead."
        )
    if content.uncalled:
        warn(
            f"PEFT stores {', '.join(content.uncalled)} whole: the network reads the weight "
            "without calling the layer, so that LoRA would have no effect."
        )
    normalised = (name.rpartition(".")[0] for name in artifact.part("buffer"))
    content.close([*normalised, subject.backbone.head], [path for path in paths.values() if path])
    return content


def _called(subject: Subject) -> set[nn.Module]:
    """Modules that a forward pass in evaluation mode calls."""
    called: set[nn.Module] = set()

    def note(module: nn.Module, _: Any) -> None:
        called.add(module)

    # a hook for all modules: with hooks of their own, layers of `nn.TransformerEncoder` are called
    handle = register_module_forward_pre_hook(note)
    try:
        outputs_of(subject.backbone.network, subject.inputs())
    finally:
        handle.remove()
    return called


def _with_adapter(subject: Subject, content: _Content) -> Any:
    from peft import LoraConfig, get_peft_model

    network, ranks = subject.bare(), content.ranks
    names = [name for name, _ in network.named_modules() if name]
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    is_uniform = set(ranks.values()) <= {usual}
    patterns = {} if is_uniform else {_anchored(path, names): r for path, r in ranks.items()}
    config = LoraConfig(
        r=usual,
        lora_alpha=usual,
        target_modules=_exactly(list(ranks), names),
        rank_pattern=patterns,
        alpha_pattern=patterns,
        modules_to_save=list(content.whole),
        inference_mode=True,
    )
    return get_peft_model(network, config)


def _exactly(targets: list[str], names: list[str]) -> list[str] | str:
    """`target_modules` that selects exactly these modules.

    PEFT compares a list with the ends of names, and a string, as a pattern, with whole names.
    A string is used if a name is also the end of others. Without targets it accepts only its own
    word for that.
    """
    from peft.utils.constants import DUMMY_TARGET_MODULES

    if not targets:
        return str(DUMMY_TARGET_MODULES)
    if not any(_is_end(path, names) for path in targets):
        return targets
    return "|".join(map(re.escape, targets))


def _anchored(path: str, names: list[str]) -> str:
    """Key of `rank_pattern` for one module: its name, anchored if other names end with it."""
    return f"^{path}" if _is_end(path, names) else path


def _is_end(path: str, names: list[str]) -> bool:
    return any(name.endswith(f".{path}") for name in names)


def _fill(model: Any, content: _Content, subject: Subject) -> None:
    backbone = replace(subject.backbone, network=copied(subject.backbone.network))
    write_layers(backbone, subject.artifact, content.whole)
    with torch.no_grad():
        for path in content.whole:
            copy = model.get_submodule(ROOT + path).modules_to_save[ADAPTER]
            copy.load_state_dict(backbone.network.get_submodule(path).state_dict())
        for product in content.products:
            layer, a, b = model.get_submodule(ROOT + product.layer), product.a, product.b
            if ADAPTER in layer.lora_embedding_A:
                layer.lora_embedding_A[ADAPTER].copy_(b.T)
                layer.lora_embedding_B[ADAPTER].copy_(a.T)
            else:
                inner, outer = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                inner.copy_(a.view_as(inner))
                outer.copy_(b.view_as(outer))


def _name_base(file: Path, subject: Subject) -> None:
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = subject.backbone.source
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _card(subject: Subject, whole: Iterable[str]) -> str:
    header, backbone = subject.artifact.header, subject.backbone
    head = backbone.network.get_submodule(backbone.head)
    classes = subject.n_classes
    return f"""---
library_name: peft
tags:
- autotune
---

# {header.get("task", {}).get("source", "task")} on {backbone.source}

Delta selected and trained by autotune: {subject.artifact.plan}.

```python
from peft import PeftModel

# `network` is {backbone.source} with a new {type(head).__name__} for {classes} classes as \
`{backbone.head}`
model = PeftModel.from_pretrained(network, "PATH_OF_THIS_FOLDER").eval()
```

- classes: {", ".join(map(str, header.get("task", {}).get("classes", [])))}
- trainable parameters without the head: {header.get("cost", {}).get("parameters")}
- metrics: {json.dumps(header.get("metrics", {}))}
- input: {json.dumps(header.get("input"))}
- modules stored whole (`modules_to_save`): {", ".join(whole)}
"""


def _require() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"The format peft needs peft, which is not installed: {install_command('peft')}."
        ) from error
