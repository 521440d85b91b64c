"""Inputs on which an export is compared: noise or, for a network that refuses it, examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from autotune.backbones.precision import matched
from autotune.deploy.export.base import N_EXAMPLES, Subject
from autotune.run.notebook import Study
from autotune.run.settings import OBJECT
from autotune.session.sources import find_task
from autotune.tasks.loading import batches, infer_input


def with_examples(subject: Subject, path: str | Path, task: Any, inputs: Tensor | None) -> Subject:
    """The subject with `inputs` (n, ...) or, if its network refuses noise, examples of the task.

    The task is `task`, or that of the run at `path`, unless it is code that is not named.
    """
    if inputs is not None:
        return replace(subject, examples=inputs)
    source = _task_of(path) if task is None else task
    if source is None or not subject.refusal():
        return subject
    return replace(subject, examples=_examples(subject, source))


def _task_of(path: str | Path) -> str | None:
    """Task of a run that may be loaded without being named again."""
    if not Path(path).is_dir():
        return None
    source = Study(path).settings.task
    return None if source == OBJECT or source.startswith("python:") else source


def _examples(subject: Subject, source: Any) -> Tensor:
    backbone = subject.backbone
    data = find_task(subject.settings, source, backbone).split(subject.settings.seed)
    assert data.train is not None and data.val is not None
    input = matched(infer_input(data.train, data.input or backbone.input), backbone.network)
    device = next(backbone.network.parameters()).device
    inputs, _ = next(batches(data.val, N_EXAMPLES, input=input, device=device))
    return inputs
