"""Put an artifact on its backbone's network, take it off, or write it into the weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone, describe, require_values, with_head
from autotune.backbones.dataflow import Flow, trace
from autotune.backbones.heads.copies import n_outputs
from autotune.backbones.heads.factory import HeadFactory
from autotune.backbones.heads.finding import checked_head
from autotune.backbones.heads.rounded import load_head, plain_head, trained_head
from autotune.backbones.inputs import InputDescription, read_input, some_inputs
from autotune.backbones.snapshot import Snapshot
from autotune.deltas.artifact import Artifact
from autotune.deltas.attach import Deltas
from autotune.deltas.costs import new_delta, plan_cost
from autotune.deltas.merging import new_values, write_all
from autotune.deltas.outputs import refusal
from autotune.deltas.site import sites
from autotune.deltas.surgery import exchange, exchange_buffer
from autotune.errors import ArtifactError, AutotuneError, MergeError

# raised on attaching or loading when a damaged file's tensors do not fit its plan
_DOES_NOT_FIT = (LookupError, TypeError, ValueError, RuntimeError, AttributeError)

TUNED = "_autotune"
"""Attribute in which a network keeps the deltas loaded onto it; absent on a bare network."""


def described(
    model: nn.Module | Backbone, artifact: Artifact, head_factory: HeadFactory | None = None
) -> Backbone:
    """Backbone around a model as the artifact's search had it: its head, what was left out."""
    about = artifact.header.get("about", {})
    head = about.get("head")
    if not isinstance(model, Backbone):
        require_values(model, "the model")
        model = describe(model, source="the model", family="any", head=head)
    elif head is not None and head != model.head:
        model = with_head(model, checked_head(model.network, head))
    unused, protected = frozenset(about.get("unused", ())), about.get("protected", ())
    factory = head_factory or model.head_factory
    reasons = dict.fromkeys(protected, "protected")
    return replace(model, unused=unused, protected=reasons, head_factory=factory)


def artifact_classes(backbone: Backbone, artifact: Artifact) -> int:
    """Number of classes of an artifact's head."""
    if _factory_name(artifact) is not None:
        return len(artifact.header["task"]["classes"])
    return n_outputs(backbone.network.get_submodule(backbone.head), artifact.part("head"))


def bare_head(backbone: Backbone, artifact: Artifact) -> nn.Module:
    """Untrained head of the kind that an artifact has, for its classes."""
    if _factory_name(artifact) is None:
        backbone = replace(backbone, head_factory=None)
    return backbone.new_head(artifact_classes(backbone, artifact))


def _factory_name(artifact: Artifact) -> Any:
    """Name of the head factory that made an artifact's head; None for a copy of the network's."""
    return artifact.header.get("about", {}).get("head_factory")


def input_of(artifact: Artifact) -> InputDescription:
    """Input description of the tuned network; `ArtifactError` if the file has none."""
    description = artifact.header.get("input")
    if description is None:
        raise ArtifactError(
            "A check of outputs needs inputs, and the file does not describe them. Search again "
            "with --input FILE, or give inputs."
        )
    try:
        return read_input(description, source="the artifact")
    except AutotuneError as error:
        raise ArtifactError(f"{error} The file is damaged.") from error


def require_fits(backbone: Backbone, artifact: Artifact, source: str = "the artifact") -> None:
    """Raise `ArtifactError` for another backbone's artifact, or a network that is not bare.

    Also if a head factory made the artifact's head, and the backbone has none.
    """
    if getattr(vars(backbone.network).get(TUNED), "active", None) is not None:
        raise ArtifactError(
            "A delta goes onto the bare backbone, this one already has a delta. Call "
            "autotune.switch(model, None) first."
        )
    if artifact.fingerprint != backbone.fingerprint:
        raise ArtifactError(
            f"A delta fits only the backbone that it was made for: {source} wants fingerprint "
            f"{artifact.fingerprint[:12]}, {backbone.source} has {backbone.fingerprint[:12]}. "
            "Load the same weights, before anything is changed in them."
        )
    if (name := _factory_name(artifact)) is not None and backbone.head_factory is None:
        raise ArtifactError(
            f"The head of {source} was made by a head factory ({name}), which runs only when it is "
            "named: give --head-factory FILE:FUNCTION, or head_factory= in Python."
        )


@contextmanager
def tuned(
    backbone: Backbone, artifact: Artifact, *, source: str = "the artifact"
) -> Iterator[nn.Module]:
    """Context with the artifact's deltas, head and prepared buffers on the backbone's network.

    The network is in evaluation mode, and restored on exit. Raises `ArtifactError` for another
    backbone's artifact.
    """
    before = Snapshot(backbone.network)
    try:
        with put_on(backbone, artifact, source)[0]:
            yield backbone.network
    finally:
        before.restore()


def put_on(
    backbone: Backbone, artifact: Artifact, source: str = "the artifact"
) -> tuple[ExitStack, Deltas]:
    """Like `tuned`, but on until the returned stack is closed; never closed, it stays on."""
    require_fits(backbone, artifact, source)
    with ExitStack() as stack:
        try:
            deltas = _put_on(stack, backbone, artifact)
        except _DOES_NOT_FIT as error:
            raise _misfit(source, error) from error
        return stack.pop_all(), deltas


def merge_into(backbone: Backbone, artifact: Artifact, inputs: Tensor | None = None) -> float:
    """Write an artifact into the backbone's network for good; return the largest difference.

    Outputs before and after are compared on `inputs` (n, ...), noise by default; the difference is
    relative to the largest output. Raises `ArtifactError`, or `MergeError` with nothing changed for
    a delta that cannot be merged or outputs that change by more than 1e-5.
    """
    network, (path, _, name) = backbone.network, backbone.head.rpartition(".")
    if inputs is None:
        inputs = some_inputs(input_of(artifact)).to(device_of(network))
    if reason := refusal(network, inputs):
        raise MergeError(
            f"A merge is compared on inputs that the network takes, it refuses these ({reason}). "
            "Give a batch of your own with inputs=, or keep the delta file."
        )
    stack, deltas = put_on(backbone, artifact)
    with stack:
        difference = _merged(deltas, inputs)
        head = plain_head(network.get_submodule(backbone.head))
        buffers = {n: network.get_buffer(n) for n in artifact.part("buffer")}
    for buffer, value in buffers.items():
        network.get_buffer(buffer).copy_(value)
    setattr(network.get_submodule(path), name, head)
    return difference


def write_layers(backbone: Backbone, artifact: Artifact, paths: Collection[str]) -> None:
    """Write an artifact's head, and what it changes in the layers at `paths`, for good.

    Other layers stay as they are. Raises `ArtifactError`, or `MergeError` for a weight that the
    network's own parametrization cannot compute.
    """
    network, (path, _, name) = backbone.network, backbone.head.rpartition(".")
    stack, deltas = put_on(backbone, artifact)
    with stack:
        values = new_values(deltas.sites.values())
        head = plain_head(network.get_submodule(backbone.head))
        buffers = {n: network.get_buffer(n) for n in artifact.part("buffer")}
    layers = {module for path in paths for module in network.get_submodule(path).modules()}
    write_all([value for value in values if value.module in layers])
    for buffer, value in buffers.items():
        network.get_buffer(buffer).copy_(value)
    setattr(network.get_submodule(path), name, head)


def device_of(network: nn.Module) -> torch.device:
    """Device of the network's first parameter."""
    return next(network.parameters()).device


def _merged(deltas: Deltas, inputs: Tensor) -> float:
    try:
        return deltas.merge(inputs)
    except MergeError:
        raise
    except _DOES_NOT_FIT as error:
        raise _misfit("the artifact", error) from error


def _misfit(source: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"The tensors of {source} do not fit its own plan ({error}). The file is damaged."
    )


def _put_on(stack: ExitStack, backbone: Backbone, artifact: Artifact) -> Deltas:
    network = backbone.network
    for name, buffer in artifact.part("buffer").items():
        stack.callback(exchange_buffer(network, name, buffer))
    values = artifact.part("head")
    head = trained_head(bare_head(backbone, artifact))
    load_head(head, values)
    stack.callback(exchange(network, backbone.head, head))
    flow, stored = _flow(network, artifact), artifact.part("delta")
    _check_size(network, artifact, flow)
    deltas = Deltas(network, artifact.units, artifact.plan, seed=0, flow=flow)
    stack.callback(deltas.detach)
    if set(stored) != set(deltas.tensors()):
        raise KeyError(f"{sorted(set(stored) ^ set(deltas.tensors()))[0]} is missing or unexpected")
    deltas.load(stored)
    head.requires_grad_(False)
    for parameter in deltas.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return deltas


def _check_size(network: nn.Module, artifact: Artifact, flow: Flow | None) -> None:
    """Raise `ValueError` unless the file has as many values as the plan stores.

    Checked before any delta is built: a damaged plan may ask for tensors of any size.
    """
    plan, stored = artifact.plan, artifact.part("delta").values()
    wanted = plan_cost(sites(network, artifact.units, flow), plan).stored
    if (n_values := sum(tensor.numel() for tensor in stored)) != wanted:
        raise ValueError(f"its plan stores {wanted:,} values, the file has {n_values:,}")


def _flow(network: nn.Module, artifact: Artifact) -> Flow | None:
    """The network's flow if a delta of the plan adds a path; None otherwise."""
    methods = [method for choice in artifact.plan.choices.values() for method in choice.methods]
    if not any(new_delta(method).on_path for method in methods):
        return None
    return trace(network, input_of(artifact))
