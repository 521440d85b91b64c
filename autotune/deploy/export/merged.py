"""A plain state dict: the changes written into the backbone's own weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.apply import merge_into
from autotune.deploy.export.base import Format, Subject


class Merged(Format):
    """Safetensors that load into the untouched architecture, with `strict=True`.

    Names, shapes and dtypes are the backbone's; its head has the task's classes. Raises
    `MergeError` for deltas that add a path.
    """

    file = "merged.safetensors"

    def write(self, subject: Subject, path: Path) -> None:
        own = replace(subject.backbone, network=copy.deepcopy(subject.backbone.network))
        merge_into(own, subject.artifact, subject.inputs())
        state = own.network.state_dict()
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
        save_file(
            tensors, path, {k: json.dumps(v) for k, v in subject.provenance("merged").items()}
        )

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        network = subject.bare()
        network.load_state_dict(load_file(path), strict=True)
        with evaluating(network):
            outputs: Tensor = network(subject.inputs())
        return outputs
