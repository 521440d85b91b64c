"""How to use the result: lines to copy."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from autotune.report.section import Section

if TYPE_CHECKING:
    from autotune.runs import Study


def section(study: Study) -> Section:
    """What to type next: with an answer, what takes it away; before it, what goes on."""
    run = shlex.quote(str(study.folder.path))
    if study.final is None:
        commands = [
            ("Go on with it", study.resume_command),
            ("Look at it while it runs", f"autotune status {run} --watch"),
        ]
        return Section("use", "Go on", commands=tuple(commands))
    commands = [
        ("Test it again in a new process", f"autotune evaluate {run}"),
        ("Classify a picture", f"autotune predict {run} PICTURE"),
        ("Take the mask of what was chosen", f"autotune export {run} --format mask -o mask.json"),
        ("Take the whole network as a plain state dict", f"autotune export {run} --format merged"),
        ("Spend more trials", f"autotune resume {run} --trials {2 * len(study.trials)}"),
        ("Load it in Python", f'autotune.load_adapted(backbone, "{study.best.artifact}")'),
    ]
    return Section("use", "Use the result", commands=tuple(commands))
