"""Tasks: labelled data by name. A source is a file and an entry in this table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import UnknownName, unknown
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.backbones.inputs import InputDescription
    from autotune.tasks.base import Task
    from autotune.tasks.options import DataOptions

SOURCES = Registry(
    "task source",
    {
        "builtin": "autotune.tasks.digits:load",
        "npz": "autotune.tasks.npz:load",
        "imagefolder": "autotune.tasks.imagefolder:load",
        "python": "autotune.tasks.python:load",
    },
    reserved={
        "csv": "Write an npz: file, or a python: source.",
        "jsonl": "Write an npz: file, or a python: source.",
        "torchvision": "Use imagefolder:DIR, npz:FILE or python:FILE:FUNCTION.",
    },
)


def load_task(
    source: str, input: InputDescription | None, options: DataOptions | None = None
) -> Task:
    """Load the task of a source `KIND:REST`, its images in the size that `input` describes.

    `options` say what to do with examples that are broken, unlabelled or belong together. Raises
    `UnknownName` for an unknown kind or name, `TaskError` for data that cannot be used.
    """
    kind, colon, rest = source.partition(":")
    if not colon:
        known = [f"{name}:..." for name in SOURCES.names()]
        raise UnknownName(unknown("task", source, [*known, "builtin:digits"]))
    from autotune.tasks.options import DEFAULTS

    task: Task = SOURCES.load(kind)(rest, input, options or DEFAULTS)
    return task
