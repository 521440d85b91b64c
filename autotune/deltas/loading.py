"""Load several delta files onto a model by name; at most one is active at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.heads.factory import HeadFactory
from autotune.deltas.apply import TUNED, described, device_of, merge_into, put_on
from autotune.deltas.artifact import Artifact, read_artifact
from autotune.deltas.hotswap import Swap, state_of
from autotune.deltas.surgery import frozen
from autotune.errors import ArtifactError, unknown

DEFAULT = "default"
_TEMPORARY = count()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """One delta that was loaded onto a network, active or not."""

    artifact: Artifact
    swap: Swap
    stack: ExitStack
    """Detaches the delta for good; closed only while the delta is active."""


@dataclass
class _Mount:
    """Deltas that were loaded onto one network, which holds this as an attribute."""

    backbone: Backbone
    loaded: dict[str, _Loaded] = field(default_factory=dict)
    active: str | None = None
    thaw: Callable[[], None] | None = None
    """Restores modes and flags; set while a delta is active."""

    # A copied or pickled network gets None instead: swaps refer to the original's modules.
    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def load_adapted(
    model: nn.Module | Backbone,
    path: Path | str | Artifact,
    *,
    name: str = DEFAULT,
    head_factory: HeadFactory | None = None,
) -> nn.Module:
    """Load the delta file at `path` onto the model, in place; return it in evaluation mode.

    A second file needs another `name`; `switch` changes between them. `detach` takes them off
    and restores the model bit for bit. `head_factory` makes the head, if the search had one.
    Raises `ArtifactError` for a damaged file, a file made for another backbone, or a name that is
    taken.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path)
    source = "the artifact" if isinstance(path, Artifact) else str(path)
    mount = _mount_of(model)
    if mount is not None and name in mount.loaded:
        raise ArtifactError(
            f"A delta on a model needs a name of its own, {name!r} is taken. Give another name=, "
            "or call autotune.detach(model) first."
        )
    mount = mount or _Mount(described(model, artifact))
    if head_factory is not None:
        mount.backbone = replace(mount.backbone, head_factory=head_factory)
    before = mount.active
    _exchange(mount, None)
    try:
        mount.loaded[name] = _load(mount.backbone, artifact, source)
    except BaseException:
        _exchange(mount, before)
        raise
    vars(mount.backbone.network)[TUNED] = mount
    _exchange(mount, name)
    return mount.backbone.network


def switch(model: nn.Module | Backbone, name: str | None) -> nn.Module:
    """Activate the loaded delta `name`, or with None the bare backbone; return the model.

    Nothing is computed: tensors, hooks and classes of modules are exchanged. Raises
    `ArtifactError` for a name that is not loaded.
    """
    mount = _mount(model, name)
    _exchange(mount, name)
    return mount.backbone.network


def detach(model: nn.Module | Backbone, name: str | None = None) -> nn.Module:
    """Take off and forget the deltas that `load_adapted` put on a model, or the one called `name`.

    Raises `ArtifactError` if there is none.
    """
    mount = _mount(model, name)
    network, before = mount.backbone.network, mount.active
    for each in list(mount.loaded) if name is None else [name]:
        _exchange(mount, each)
        mount.active = None
        _unload(network, mount.loaded.pop(each))
    _exchange(mount, before if before in mount.loaded else None)
    if not mount.loaded:
        del vars(network)[TUNED]
    return network


@contextmanager
def adapted(
    model: nn.Module | Backbone,
    delta: Path | str | Artifact,
    *,
    head_factory: HeadFactory | None = None,
) -> Iterator[nn.Module]:
    """Context with a delta file on the model: `with adapted(model, path) as tuned: …`.

    On exit everything is restored, including another delta that was active. `head_factory` and the
    errors are those of `load_adapted`.
    """
    mount = _mount_of(model)
    before, name = mount.active if mount else None, f"temporary {next(_TEMPORARY)}"
    network = load_adapted(model, delta, name=name, head_factory=head_factory)
    try:
        yield network
    finally:
        mount = _mount_of(network)
        if mount is not None and name in mount.loaded:
            detach(network, name)
        if mount is not None and before in mount.loaded:
            switch(network, before)


def merge(model: nn.Module | Backbone, inputs: Tensor | None = None) -> float:
    """Write the active delta into the model for good; return the largest difference of outputs.

    The tuned head and prepared buffers stay too; the model is then a plain network. Outputs are
    compared on `inputs` (n, ...), noise by default; the difference is relative to the largest
    output. Raises `ArtifactError` if several deltas are loaded or none is active, and `MergeError`,
    with nothing changed, for a delta that cannot be merged or outputs that change by more than
    1e-5.
    """
    mount = _mount(model)
    name = mount.active
    if name is None or len(mount.loaded) > 1:
        raise ArtifactError(
            f"A merge needs one delta on the model and no other, there are {len(mount.loaded)}. "
            "Call autotune.detach(model, name) for the others."
        )
    artifact, backbone = mount.loaded[name].artifact, mount.backbone
    detach(backbone.network)
    try:
        return merge_into(backbone, artifact, inputs)
    except BaseException:
        load_adapted(backbone, artifact, name=name)
        raise


def _mount_of(model: nn.Module | Backbone) -> _Mount | None:
    network = model.network if isinstance(model, Backbone) else model
    mount: _Mount | None = vars(network).get(TUNED)
    return mount


def _mount(model: nn.Module | Backbone, name: str | None = None) -> _Mount:
    """Deltas on a model; `ArtifactError` if there are none, or none of that name."""
    mount = _mount_of(model)
    if mount is None:
        raise ArtifactError("There is no delta on this model. Put one on with load_adapted.")
    if name is not None and name not in mount.loaded:
        raise ArtifactError(unknown("delta on this model", name, mount.loaded))
    return mount


def _load(backbone: Backbone, artifact: Artifact, source: str) -> _Loaded:
    """Put an artifact on once to record the swap that does it, then swap back."""
    network, before = backbone.network, state_of(backbone.network)
    undo = frozen(network)
    try:
        stack, _ = put_on(backbone, artifact, source)
        swap = Swap.between(before, state_of(network))
        swap.take_off(device_of(network))
    finally:
        undo()
    return _Loaded(artifact, swap, stack)


def _unload(network: nn.Module, loaded: _Loaded) -> None:
    """Detach the active delta for good."""
    loaded.stack.close()
    loaded.swap.take_off(device_of(network))  # the network may have moved to another device


def _exchange(mount: _Mount, name: str | None) -> None:
    network = mount.backbone.network
    if mount.active is not None:
        mount.loaded[mount.active].swap.take_off(device_of(network))
    if name is None and mount.thaw is not None:
        mount.thaw()
        mount.thaw = None
    if name is not None:
        mount.thaw = mount.thaw or frozen(network)
        mount.loaded[name].swap.put_on(device_of(network))
        network.eval()
    mount.active = name
