"""Format `merged`: a plain state dict with the changes folded into the backbone's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autotune.backbones.copying import copied
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.deltas.apply import merge_into
from autotune.deploy.export.base import Format, Subject
from autotune.errors import MergeError


class Merged(Format):
    """Safetensors file that loads into the unmodified architecture with `strict=True`.

    Names, shapes and dtypes are those of the backbone, its parametrizations (weight norm and the
    like) included, except that its head has the classes of the task. Raises `MergeError` for deltas
    that add a path, and for a weight that a parametrization cannot compute.
    """

    file = "merged.safetensors"

    def write(self, subject: Subject, path: Path) -> None:
        backbone = replace(subject.backbone, network=copied(subject.backbone.network))
        merge_into(backbone, subject.artifact, subject.inputs())
        state = backbone.network.state_dict()
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
        _refuse_overlaps(subject.backbone.network, tensors)
        save_file(
            tensors, path, {k: json.dumps(v) for k, v in subject.provenance("merged").items()}
        )

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        network = subject.bare()
        network.load_state_dict(load_file(path), strict=True)
        with evaluating(network):
            outputs: Tensor = logits_of(network(subject.inputs()))
        return outputs


def _refuse_overlaps(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise `MergeError` for a changed parameter that has a part of its memory in another one."""
    named = sorted(network.named_parameters(), key=lambda item: item[1].data_ptr())
    for (name, first), (other, second) in pairwise(named):
        is_apart = first.data_ptr() + first.numel() * first.element_size() <= second.data_ptr()
        if is_apart or not (first.is_contiguous() and second.is_contiguous()):
            continue
        before = ((name, first), (other, second))
        if not all(_is_unchanged(p, tensors[n]) for n, p in before if n in tensors):
            raise MergeError(
                f"A merge needs parameters with memory of their own, {name} and {other} share a "
                "part. Export as module or onnx, or keep the delta file."
            )


def _is_unchanged(parameter: Tensor, value: Tensor) -> bool:
    return torch.equal(parameter.detach().cpu(), value)
