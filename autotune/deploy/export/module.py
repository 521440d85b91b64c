"""Format `module`: the tuned network, added paths included, as a `torch.export` program."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from autotune.backbones.forward import LogitsOnly
from autotune.deploy.export.base import Format, Subject, refused

PROVENANCE_FILE = "autotune.json"
"""Name of the metadata file inside the archive."""

HINT = "Export the delta, or merged, instead."


class Module(Format):
    """File written by `torch.export.save`, with a dynamic batch size."""

    file = "tuned.pt2"

    def write(self, subject: Subject, path: Path) -> None:
        with refused("torch.export", HINT):
            program = exported(subject.tuned(), subject.inputs())
            metadata = {PROVENANCE_FILE: json.dumps(subject.provenance("module"))}
            torch.export.save(program, path, extra_files=metadata)

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        with refused("torch.export", HINT), torch.no_grad():
            outputs: Tensor = torch.export.load(path).module()(subject.inputs())
        return outputs


def exported(network: torch.nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """Export the logits of `network` with a dynamic batch size; `inputs` is a batch (n, ...)."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        if not isinstance(network(inputs), Tensor):
            network = LogitsOnly(network).eval()
        return torch.export.export(network, (inputs,), dynamic_shapes=({0: batch},))
