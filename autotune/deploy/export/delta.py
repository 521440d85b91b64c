"""Format `delta`: the delta file itself."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import read_artifact, to_bytes
from autotune.deploy.export.base import Format, Subject


class DeltaFile(Format):
    """Deltas, prepared buffers and head, to be loaded onto the same backbone."""

    file = "delta.safetensors"
    tolerance = 0.0

    def write(self, subject: Subject, path: Path) -> None:
        path.write_bytes(to_bytes(subject.artifact))

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        with tuned(subject.backbone, read_artifact(path)) as network, evaluating(network):
            outputs: Tensor = logits_of(network(subject.inputs()))
        return outputs
