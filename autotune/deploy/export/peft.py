"""An adapter of PEFT: low rank, and whole layers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.costs import new_delta
from autotune.deltas.site import Slot, sites
from autotune.deploy.export.base import Format, Subject, refused
from autotune.errors import DependencyError, ExportError
from autotune.utils.distribution import install_command

ADAPTER = "default"
ROOT = "base_model.model."
"""Before the names of modules in PEFT."""


class Peft(Format):
    """`adapter_config.json`, `adapter_model.safetensors` and a model card, as PEFT loads them.

    Low rank is LoRA with a rank a layer and alpha = rank, so that nothing is scaled; all other
    layers that change, prepared normalisation and the head are `modules_to_save`, as they are when
    tuned. Raises `ExportError`, naming the units, for paths and for parameters outside of layers.
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
                outputs: Tensor = model(subject.inputs())
        return outputs


@dataclass(frozen=True, eq=False)
class _Product:
    """The low-rank change of a layer's kernel: A (rank, columns) and B (rows, rank)."""

    layer: str
    a: Tensor
    b: Tensor


@dataclass
class _Content:
    """What goes into an adapter, and what cannot."""

    products: list[_Product] = field(default_factory=list)
    whole: dict[str, None] = field(default_factory=dict)
    """Modules that are stored as they are when tuned."""

    refused: list[str] = field(default_factory=list)

    @property
    def ranks(self) -> dict[str, int]:
        """Layer → rank."""
        return {p.layer: len(p.a) for p in self.products}

    def close(self, modules: Iterable[str], names: list[str]) -> None:
        """More whole modules; and all whose names end like theirs, as PEFT takes these, too."""
        ends = (*self.whole, *modules)
        found = [name for name in names if name.endswith(ends)]
        inside = tuple(f"{name}." for name in found)
        self.whole = dict.fromkeys(name for name in found if not name.startswith(inside))
        kept = [p for p in self.products if not p.layer.startswith(inside)]
        self.products = [p for p in kept if p.layer not in self.whole]

    def add_whole(self, unit: str, slot: Slot, path: str) -> None:
        """The module of a parameter, whose layer is at `path`."""
        module = _saved_of(slot, path)
        if module is None:
            self.refused.append(f"{slot.name} in {unit} (in no layer of its own)")
        else:
            self.whole[module] = None


def _takes_lora(slot: Slot) -> bool:
    """Whether PEFT computes low rank of this kernel as it is meant.

    Not in attentions of torch, where releases up to 0.21 count that of the projection out twice;
    nor in convolutions with groups or gaps.
    """
    layer = slot.layer
    if len(slot.owners) > 1 or slot.attribute != "weight" or isinstance(layer, _UNCALLED):
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1 and {*layer.dilation} == {1} and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear | nn.Embedding)


def _saved_of(slot: Slot, path: str) -> str | None:
    """The module that PEFT can store whole for a parameter."""
    if isinstance(slot.layer, _UNCALLED):
        return path.rpartition(".")[0]
    is_layer = isinstance(slot.layer, nn.MultiheadAttention) or not any(slot.layer.children())
    return path if path and is_layer and len(slot.owners) == 1 else None


_UNCALLED = nn.modules.linear.NonDynamicallyQuantizableLinear
"""The projection out of an attention of torch, which reads its weights without calling it."""


def _content(subject: Subject) -> _Content:
    network, artifact = subject.backbone.network, subject.artifact
    paths = {module: path for path, module in network.named_modules()}
    stored, found = artifact.part("delta"), _Content()
    for site in sites(network, artifact.units).values():
        for method in artifact.plan[site.name].methods:
            delta = new_delta(method)
            if not delta.mergeable:
                found.refused.append(f"{site.name} ({method.label})")
            for slot in delta.changes(site):
                path, prefix = paths[slot.layer], f"{site.name}/{method.name}/parts.{slot.name}"
                if method.name == "lowrank" and _takes_lora(slot):
                    a, b = stored[f"{prefix}.a"], stored[f"{prefix}.b"]
                    found.products.append(_Product(path, a, b))
                else:
                    found.add_whole(site.name, slot, path)
    if found.refused:
        raise ExportError(
            f"PEFT takes low rank and whole layers, not {', '.join(found.refused)}. "
            "Export the delta, or merged, instead."
        )
    normalised = (name.rpartition(".")[0] for name in artifact.part("buffer"))
    found.close([*normalised, subject.backbone.head], [path for path in paths.values() if path])
    return found


def _with_adapter(subject: Subject, content: _Content) -> Any:
    from peft import LoraConfig, get_peft_model

    network, ranks = subject.bare(), content.ranks
    names = [name for name, _ in network.named_modules() if name]
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    is_even = set(ranks.values()) <= {usual}
    patterns = {} if is_even else {_anchored(path, names): r for path, r in ranks.items()}
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
    """These modules by name; by a pattern where a name is also the end of others."""
    if targets and not any(_is_end(path, names) for path in targets):
        return targets
    return "|".join(map(re.escape, targets)) or "(?!)"


def _anchored(path: str, names: list[str]) -> str:
    """A pattern of PEFT for one module: its name, with a mark where other names end like it."""
    return f"^{path}" if _is_end(path, names) else path


def _is_end(path: str, names: list[str]) -> bool:
    return any(name.endswith(f".{path}") for name in names)


def _fill(model: Any, content: _Content, subject: Subject) -> None:
    network = subject.tuned()
    with torch.no_grad():
        for path in content.whole:
            copy = model.get_submodule(ROOT + path).modules_to_save[ADAPTER]
            copy.load_state_dict(network.get_submodule(path).state_dict())
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
    classes = len(subject.artifact.tensors["head/weight"])
    return f"""---
library_name: peft
tags:
- autotune
---

# {header.get("task", {}).get("source", "task")} on {backbone.source}

A delta that autotune chose and trained: {subject.artifact.plan}.

```python
from peft import PeftModel

# `network`: {backbone.source}, its head `{backbone.head}` a new {type(head).__name__} for \
{classes} classes
model = PeftModel.from_pretrained(network, "PATH OF THIS FOLDER").eval()
```

- classes: {", ".join(map(str, header.get("task", {}).get("classes", [])))}
- trainable parameters, the head not counted: {header.get("cost", {}).get("parameters")}
- metrics: {json.dumps(header.get("metrics", {}))}
- input: {json.dumps(header.get("input"))}
- stored whole (`modules_to_save`): {", ".join(whole)}
"""


def _require() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"The format peft needs peft, which is not installed: {install_command('peft')}."
        ) from error
