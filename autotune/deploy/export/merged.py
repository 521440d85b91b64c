"""Format `merged`: a plain state dict with the changes folded into the backbone's weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from autotune.backbones.copying import copied
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.deltas.apply import merge_into
from autotune.deploy.export.base import Format, Subject


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
        save_file(
            tensors, path, {k: json.dumps(v) for k, v in subject.provenance("merged").items()}
        )

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        network = subject.bare()
        network.load_state_dict(load_file(path), strict=True)
        with evaluating(network):
            outputs: Tensor = logits_of(network(subject.inputs()))
        return outputs
