"""A program of torch: the tuned network with its paths, without its code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from autotune.deploy.export.base import Format, Subject, refused

TOLD = "autotune.json"
HINT = "Export the delta, or merged, instead."


class Module(Format):
    """`torch.export.save` of the tuned network, for batches of any size."""

    file = "tuned.pt2"

    def write(self, subject: Subject, path: Path) -> None:
        with refused("torch.export", HINT):
            told = {TOLD: json.dumps(subject.provenance("module"))}
            torch.export.save(exported(subject.tuned(), subject.inputs()), path, extra_files=told)

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        with refused("torch.export", HINT), torch.no_grad():
            outputs: Tensor = torch.export.load(path).module()(subject.inputs())
        return outputs


def exported(network: torch.nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """The network's operators, the batch of any size."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(network, (inputs,), dynamic_shapes=({0: batch},))
