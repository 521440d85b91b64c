"""Creation of a service from the options of the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autotune.backbones import load_backbone
from autotune.deltas.artifact import Artifact
from autotune.deploy.export.subject import subject_of
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.service import Service
from autotune.errors import ConfigError


def make_service(
    deltas: Sequence[str],
    *,
    backbone: str | None = None,
    weights: str | None = None,
    head: str | None = None,
    head_factory: str | None = None,
    folder: str | None = None,
    limits: Limits,
    device: str = "cpu",
) -> Service:
    """Create the service for deltas written `NAME=RUN` or `NAME=DELTA`.

    The backbone is `backbone`, or else the one that the first delta names. Raises `ConfigError` for
    malformed options and any error of reading a delta.
    """
    named = [_named(delta) for delta in deltas]
    if duplicates := [name for name, n in Counter(name for name, _ in named).items() if n > 1]:
        raise ConfigError(
            f"A task needs a unique name, {duplicates[0]!r} is used twice. Rename one."
        )
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"The folder to add deltas from must exist, {folder!r} does not.")
    if backbone is None and not named:
        raise ConfigError("A server needs a backbone. Add --backbone, or a --delta that names one.")
    loaded, artifacts = None, dict[str, tuple[str, Artifact]]()
    for name, path in named:
        source = loaded or backbone
        subject = subject_of(
            path, backbone=source, weights=weights, head=head, head_factory=head_factory
        )
        loaded, artifacts[name] = subject.backbone, (path, subject.artifact)
    if loaded is None:
        loaded = load_backbone(str(backbone), weights=weights, head=head)
    service = Service(loaded, limits, Path(folder) if folder else None, device)
    for name, (path, artifact) in artifacts.items():
        service.put(name, path, artifact)
    return service


def _named(delta: str) -> tuple[str, str]:
    name, equals, path = delta.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"A task must be written NAME=RUN or NAME=DELTA, got {delta!r}.")
    return name, path
