"""From the command line to a service."""

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
    folder: str | None = None,
    limits: Limits,
    device: str = "cpu",
) -> Service:
    """The service of `NAME=RUN|DELTA`, on the backbone that is given or that the first names.

    Raises `ConfigError` for what is not written so, and what reading a delta raises.
    """
    named = [_named(delta) for delta in deltas]
    if twice := [name for name, n in Counter(name for name, _ in named).items() if n > 1]:
        raise ConfigError(f"A task's name is its own, {twice[0]!r} is given twice. Name another.")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"A folder to add deltas from must exist, {folder!r} does not.")
    if backbone is None and not named:
        raise ConfigError("A server needs a backbone: give --backbone, or a --delta that names it.")
    found, artifacts = None, dict[str, tuple[str, Artifact]]()
    for name, path in named:
        source = found or backbone
        subject = subject_of(path, backbone=source, weights=weights, head=head)
        found, artifacts[name] = subject.backbone, (path, subject.artifact)
    if found is None:
        found = load_backbone(str(backbone), weights=weights, head=head)
    service = Service(found, limits, Path(folder) if folder else None, device)
    for name, (path, artifact) in artifacts.items():
        service.put(name, path, artifact)
    return service


def _named(delta: str) -> tuple[str, str]:
    name, equals, path = delta.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"A task is written NAME=RUN or NAME=DELTA, got {delta!r}.")
    return name, path
