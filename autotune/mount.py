"""Delta files on a model: several by name, one of them on at a time, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autotune.adapt import Deltas, buffers_of, exchanged, frozen
from autotune.artifact import Artifact, read_artifact
from autotune.backbones.base import Backbone, describe, new_head
from autotune.backbones.flow import Flow, trace
from autotune.backbones.inputs import InputDescription, read_input, some_inputs
from autotune.candidates import new_delta, plan_cost
from autotune.deltas.site import sites
from autotune.errors import ArtifactError, unknown
from autotune.swap import Swap, state_of

DEFAULT = "default"


@dataclass(frozen=True, eq=False)
class _Loaded:
    """One delta on a network, or off it for a while."""

    artifact: Artifact
    swap: Swap
    stack: ExitStack
    """Detaches it for good, while it is on."""


@dataclass
class _Mount:
    """What was loaded onto one network."""

    backbone: Backbone
    loaded: dict[str, _Loaded] = field(default_factory=dict)
    active: str | None = None
    thaw: Callable[[], None] | None = None
    """Puts modes and flags back, while a delta is on."""


_MOUNTS: WeakKeyDictionary[nn.Module, _Mount] = WeakKeyDictionary()


def load_adapted(
    model: nn.Module | Backbone, path: Path | str | Artifact, *, name: str = DEFAULT
) -> nn.Module:
    """The model with the delta file at `path` on it, in place, in evaluation mode.

    A second file needs another `name`; `switch` changes between them, `detach` takes them off
    again: the model is then what it was, bit for bit. Raises `ArtifactError` for a file of
    another backbone, a damaged one, or a name that is taken.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path)
    source = "the artifact" if isinstance(path, Artifact) else str(path)
    network = model.network if isinstance(model, Backbone) else model
    mount = _MOUNTS.get(network)
    if mount is not None and name in mount.loaded:
        raise ArtifactError(
            f"A delta on a model needs a name of its own, {name!r} is taken. Give another name=, "
            "or call autotune.detach(model) first."
        )
    mount = mount or _Mount(described(model, artifact))
    before = mount.active
    _exchange(mount, None)
    try:
        mount.loaded[name] = _load(mount.backbone, artifact, source)
    except BaseException:
        _exchange(mount, before)
        raise
    _MOUNTS[network] = mount
    _exchange(mount, name)
    return network


def switch(model: nn.Module | Backbone, name: str | None) -> nn.Module:
    """The loaded delta of that name on the model; with None the bare backbone.

    Nothing is computed: tensors, hooks and classes of modules are exchanged. Raises
    `ArtifactError` for a name that is not loaded.
    """
    mount = _mount(model, name)
    _exchange(mount, name)
    return mount.backbone.network


def detach(model: nn.Module | Backbone, name: str | None = None) -> nn.Module:
    """Take off what `load_adapted` put on, of all names or of one; that one is forgotten.

    `ArtifactError` when there is nothing.
    """
    mount = _mount(model, name)
    before = mount.active
    for each in list(mount.loaded) if name is None else [name]:
        _exchange(mount, each)
        mount.active = None
        _unload(mount.backbone.network, mount.loaded.pop(each))
    _exchange(mount, before if before in mount.loaded else None)
    if not mount.loaded:
        del _MOUNTS[mount.backbone.network]
    return mount.backbone.network


@contextmanager
def adapted(model: nn.Module | Backbone, delta: Path | str | Artifact) -> Iterator[nn.Module]:
    """The model with a delta file on it for a while: `with adapted(model, path) as tuned: …`.

    Afterwards everything is what it was, another delta on it included. Raises as `load_adapted`.
    """
    network = model.network if isinstance(model, Backbone) else model
    before = _MOUNTS[network].active if network in _MOUNTS else None
    name = f"adapted {len(_MOUNTS[network].loaded) if network in _MOUNTS else 0}"
    load_adapted(model, delta, name=name)
    try:
        yield network
    finally:
        detach(network, name)
        if before is not None:
            switch(network, before)


def merge(model: nn.Module | Backbone, inputs: Tensor | None = None) -> float:
    """Write the delta that is on into the model for good; the largest difference of outputs.

    Head and prepared buffers stay, too; the model is then a plain network. The difference is on
    `inputs` (some noise when left out), relative to the largest output. Raises `ArtifactError`
    where several are loaded or none is on, `MergeError`, nothing changed, for a delta that cannot
    be merged or outputs that change by more than 1e-5.
    """
    mount = _mount(model)
    if mount.active is None or len(mount.loaded) > 1:
        raise ArtifactError(
            f"A merge needs one delta on the model and no other, there are {len(mount.loaded)}. "
            "Call autotune.detach(model, name) for the others."
        )
    artifact, backbone = mount.loaded[mount.active].artifact, mount.backbone
    detach(backbone.network)
    try:
        return merge_into(backbone, artifact, inputs)
    except BaseException:
        load_adapted(backbone, artifact)
        raise


def merge_into(backbone: Backbone, artifact: Artifact, inputs: Tensor | None = None) -> float:
    """Write an artifact into the backbone's network for good; as `merge`."""
    if inputs is None:
        inputs = some_inputs(input_of(artifact)).to(_device(backbone.network))
    network, (path, _, name) = backbone.network, backbone.head.rpartition(".")
    with ExitStack() as stack:
        found = _put_on(stack, backbone, artifact).merge(inputs)
        head = network.get_submodule(backbone.head)
        buffers = {n: network.get_buffer(n) for n in artifact.part("buffer")}
    for buffer, value in buffers.items():
        network.get_buffer(buffer).copy_(value)
    setattr(network.get_submodule(path), name, head)
    return found


def input_of(artifact: Artifact) -> InputDescription:
    """What the tuned network takes; `ArtifactError` for a file that does not say it."""
    described = artifact.header.get("input")
    if described is None:
        raise ArtifactError(
            "A check of outputs needs inputs, and the file does not describe them. Search again "
            "with --input FILE, or give inputs."
        )
    return read_input(described, source="the artifact")


@contextmanager
def tuned(
    backbone: Backbone, artifact: Artifact, *, source: str = "the artifact"
) -> Iterator[nn.Module]:
    """The backbone's network with the artifact on: deltas, head and prepared buffers, in eval mode.

    Afterwards everything is what it was. Raises `ArtifactError` for another backbone's artifact.
    """
    with _checked(backbone, artifact, source):
        yield backbone.network


def _checked(backbone: Backbone, artifact: Artifact, source: str) -> ExitStack:
    """Puts an artifact on; what takes it off again."""
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
        return stack.pop_all()


def _put_on(stack: ExitStack, backbone: Backbone, artifact: Artifact) -> Deltas:
    network = backbone.network
    stack.enter_context(buffers_of(network, artifact.part("buffer")))
    values = artifact.part("head")
    head = new_head(network.get_submodule(backbone.head), len(values["weight"]))
    head.load_state_dict(values)
    stack.enter_context(exchanged(network, backbone.head, head))
    flow, stored = _flow(network, artifact), artifact.part("delta")
    _check_size(network, artifact, flow)
    deltas = Deltas(network, artifact.units, artifact.plan, seed=0, flow=flow)
    stack.callback(deltas.detach)
    if set(stored) != set(deltas.tensors()):
        raise KeyError(f"{sorted(set(stored) ^ set(deltas.tensors()))[0]} is missing or too much")
    deltas.load(stored)
    head.requires_grad_(False)
    for parameter in deltas.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return deltas


def _check_size(network: nn.Module, artifact: Artifact, flow: Flow | None) -> None:
    """What the plan would store is what the file has, before anything of that size is made."""
    plan, stored = artifact.plan, artifact.part("delta").values()
    wanted = plan_cost(sites(network, artifact.units, flow), plan).stored
    if (found := sum(tensor.numel() for tensor in stored)) != wanted:
        raise ValueError(f"its plan stores {wanted:,} values, the file has {found:,}")


def _flow(network: nn.Module, artifact: Artifact) -> Flow | None:
    """What passes between modules, where a delta of the plan needs it."""
    methods = [method for choice in artifact.plan.choices.values() for method in choice.methods]
    if not any(new_delta(method).on_path for method in methods):
        return None
    return trace(network, read_input(artifact.header["input"], source="the artifact"))


def _mount(model: nn.Module | Backbone, name: str | None = None) -> _Mount:
    """What was loaded onto a model, a delta of that name among it."""
    mount = _MOUNTS.get(model.network if isinstance(model, Backbone) else model)
    if mount is None:
        raise ArtifactError("There is no delta on this model. Put one on with load_adapted.")
    if name is not None and name not in mount.loaded:
        raise ArtifactError(unknown("delta on this model", name, mount.loaded))
    return mount


def described(model: nn.Module | Backbone, artifact: Artifact) -> Backbone:
    """The model with what an artifact says of its backbone."""
    if isinstance(model, Backbone):
        return model
    head = artifact.header.get("about", {}).get("head")
    return describe(model, source="the model", family="any", head=head)


def _load(backbone: Backbone, artifact: Artifact, source: str) -> _Loaded:
    """Put on, and off again in a way that it comes back."""
    network, before = backbone.network, state_of(backbone.network)
    undo = frozen(network)
    try:
        stack = _checked(backbone, artifact, source)
        swap = Swap.between(before, state_of(network))
        swap.take_off(_device(network))
    finally:
        undo()
    return _Loaded(artifact, swap, stack)


def _unload(network: nn.Module, loaded: _Loaded) -> None:
    """Off for good, what is on the network now."""
    loaded.stack.close()
    loaded.swap.take_off(_device(network))  # to where the network is by now


def _exchange(mount: _Mount, name: str | None) -> None:
    network = mount.backbone.network
    if mount.active is not None:
        mount.loaded[mount.active].swap.take_off(_device(network))
    if name is None and mount.thaw is not None:
        mount.thaw()
        mount.thaw = None
    if name is not None:
        mount.thaw = mount.thaw or frozen(network)
        mount.loaded[name].swap.put_on(_device(network))
        network.eval()
    mount.active = name


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
