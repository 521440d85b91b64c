"""The delta file: safetensors with the deltas, prepared buffers and head; JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from autotune.adapt import Deltas, buffers_of, exchanged
from autotune.backbones.base import Backbone, describe, fingerprint, new_head
from autotune.backbones.flow import Flow, trace
from autotune.backbones.inputs import read_input
from autotune.backbones.units import Unit
from autotune.candidates import new_delta
from autotune.errors import ArtifactError, AutotuneError
from autotune.plan import Plan

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Artifact:
    """A delta and everything that is needed to put it on the right backbone."""

    plan: Plan
    units: tuple[Unit, ...]
    """The tuned ones."""

    fingerprint: str
    """Of the backbone as it was loaded, before preparation."""

    tensors: Mapping[str, Tensor]
    """`delta/UNIT/METHOD/NAME`, `head/NAME` and `buffer/NAME`."""

    header: Mapping[str, Any]
    """`input`, `cost`, `metrics`, `task`, and `about` for versions, seeds and the like."""

    def part(self, kind: str) -> dict[str, Tensor]:
        """The tensors of one kind (`delta`, `head`, `buffer`), the prefix taken off."""
        prefix = kind + "/"
        named = self.tensors.items()
        return {name.removeprefix(prefix): t for name, t in named if name.startswith(prefix)}


def to_bytes(artifact: Artifact) -> bytes:
    """The file's content."""
    header = {
        "format": FORMAT,
        "plan": json.loads(artifact.plan.to_json()),
        "units": {u.name: u.parameters for u in artifact.units if not u.is_span()},
        "spans": {u.name: u.levels for u in artifact.units if u.is_span()},
        "fingerprint": artifact.fingerprint,
        "digest": fingerprint(artifact.tensors),
        **artifact.header,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in artifact.tensors.items()}
    return save_tensors(tensors, {key: json.dumps(value) for key, value in header.items()})


def from_bytes(content: bytes, source: str) -> Artifact:
    """What `to_bytes` wrote; `ArtifactError` for anything else. Nothing in it is executed."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        read = {key: json.loads(value) for key, value in header.items()}
        _check_format(read.get("format"), source)
        tensors = load_tensors(content)
        if read.pop("digest") != fingerprint(tensors):
            raise ValueError("its tensors are not the ones that were written")
        return Artifact(
            plan=Plan.from_json(json.dumps(read.pop("plan"))),
            units=(
                *(Unit(name, tuple(p)) for name, p in read.pop("units").items()),
                *(Unit(n, (), tuple(map(tuple, v))) for n, v in read.pop("spans").items()),
            ),
            fingerprint=read.pop("fingerprint"),
            tensors=tensors,
            header={key: value for key, value in read.items() if key != "format"},
        )
    except ArtifactError:
        raise
    except (
        SafetensorError,
        AutotuneError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ArtifactError(
            f"A delta file must be what autotune wrote, {source} is not ({type(error).__name__}: "
            f"{error}). Take the file from its run folder again."
        ) from error


def read_artifact(path: Path | str) -> Artifact:
    """The delta file at `path`."""
    file = Path(path)
    if not file.is_file():
        raise ArtifactError(f"A delta file must exist, {str(path)!r} does not. Check the path.")
    return from_bytes(file.read_bytes(), str(path))


def read_header(path: Path | str) -> dict[str, Any]:
    """The header alone, and each tensor's shape and dtype under `tensors`; no backbone needed."""
    try:
        with safe_open(path, "pt") as stored:
            header = {key: json.loads(value) for key, value in (stored.metadata() or {}).items()}
            _check_format(header.get("format"), str(path))
            slices = {name: stored.get_slice(name) for name in stored.keys()}
            shapes = {k: [str(s.get_dtype()), *s.get_shape()] for k, s in slices.items()}
            return {**header, "tensors": shapes}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"A delta file must be safetensors, {path} is not ({error})."
        ) from error


@contextmanager
def tuned(
    backbone: Backbone, artifact: Artifact, *, source: str = "the artifact"
) -> Iterator[nn.Module]:
    """The backbone's network with the artifact on: deltas, head and prepared buffers, in eval mode.

    Afterwards everything is what it was. Raises `ArtifactError` for another backbone's artifact.
    """
    if artifact.fingerprint != backbone.fingerprint:
        raise ArtifactError(
            f"A delta fits only the backbone that it was made for: {source} wants fingerprint "
            f"{artifact.fingerprint[:12]}, {backbone.source} has {backbone.fingerprint[:12]}. "
            "Load the same weights, before anything is changed in them."
        )
    with ExitStack() as stack:
        try:
            _put_on(stack, backbone, artifact)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ArtifactError(
                f"The tensors of {source} do not fit its own plan ({error}). The file is damaged."
            ) from error
        yield backbone.network


def _put_on(stack: ExitStack, backbone: Backbone, artifact: Artifact) -> None:
    network = backbone.network
    stack.enter_context(buffers_of(network, artifact.part("buffer")))
    values = artifact.part("head")
    head = new_head(network.get_submodule(backbone.head), len(values["weight"]))
    head.load_state_dict(values)
    stack.enter_context(exchanged(network, backbone.head, head))
    flow = _flow(network, artifact)
    deltas = Deltas(network, artifact.units, artifact.plan, seed=0, flow=flow)
    stack.callback(deltas.detach)
    stored = artifact.part("delta")
    if set(stored) != set(deltas.tensors()):
        raise KeyError(f"{sorted(set(stored) ^ set(deltas.tensors()))[0]} is missing or too much")
    deltas.load(stored)
    head.requires_grad_(False)
    for parameter in deltas.parameters():
        parameter.requires_grad_(False)
    network.eval()


def _flow(network: nn.Module, artifact: Artifact) -> Flow | None:
    """What passes between modules, where a delta of the plan needs it."""
    methods = [method for choice in artifact.plan.choices.values() for method in choice.methods]
    if not any(new_delta(method).on_path for method in methods):
        return None
    return trace(network, read_input(artifact.header["input"], source="the artifact"))


_ATTACHED: dict[int, ExitStack] = {}


def load_adapted(model: nn.Module | Backbone, path: Path | str) -> nn.Module:
    """The model with the delta file at `path` on it, in place, in evaluation mode.

    `detach` takes it off again; the model is then what it was, bit for bit. Raises
    `ArtifactError` for a file of another backbone, a damaged one, or a model that has one on.
    """
    artifact = read_artifact(path)
    head = artifact.header.get("about", {}).get("head")
    backbone = model if isinstance(model, Backbone) else None
    if backbone is None:
        assert isinstance(model, nn.Module)
        backbone = describe(model, source="the model", family="any", head=head)
    if id(backbone.network) in _ATTACHED:
        raise ArtifactError(
            "A model carries one delta at a time. Call autotune.detach(model) first."
        )
    stack = ExitStack()
    network = stack.enter_context(tuned(backbone, artifact, source=str(path)))
    _ATTACHED[id(network)] = stack
    return network


def detach(model: nn.Module) -> nn.Module:
    """Take off what `load_adapted` put on; `ArtifactError` when there is nothing."""
    stack = _ATTACHED.pop(id(model), None)
    if stack is None:
        raise ArtifactError("There is no delta on this model. Put one on with load_adapted.")
    stack.close()
    return model


def _check_format(found: object, source: str) -> None:
    if found != FORMAT:
        raise ArtifactError(
            f"A delta file must have format {FORMAT}, {source} has {found!r}. "
            "Use the version of autotune that wrote it, or search again."
        )
