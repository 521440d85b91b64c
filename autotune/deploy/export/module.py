"""Format `module`: the tuned network, added paths included, as a `torch.export` program."""

from __future__ import annotations

import json
from inspect import Parameter, signature
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from autotune.backbones.batch_length import symbolic_length
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
            # Written by torch itself, a full disk would abort the process.
            torch.export.save(program, content := BytesIO(), extra_files=metadata)
        path.write_bytes(content.getbuffer())

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        with refused("torch.export", HINT), torch.no_grad():
            outputs: Tensor = torch.export.load(path).module()(subject.inputs())
        return outputs


def exported(network: torch.nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """Export the logits of `network` with a dynamic batch size; `inputs` is a batch (n, ...)."""
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), symbolic_length(network):
        if not (_takes_one(network) and isinstance(network(inputs), Tensor)):
            network = LogitsOnly(network).eval()
        return torch.export.export(network, (inputs,), dynamic_shapes=({0: batch},))


def _takes_one(network: torch.nn.Module) -> bool:
    """Whether the first argument of a network has a name, unlike `*inputs` of a wrapper."""
    first = next(iter(signature(network.forward).parameters.values()), None)
    return first is not None and first.kind is Parameter.POSITIONAL_OR_KEYWORD
