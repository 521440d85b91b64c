"""Section with commands and code that use the result, for copying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.run.report.section import Section

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


FROM_PYTHON = "This search was started from Python objects, so its result is used from Python."


def section(study: BareStudy) -> Section:
    """Commands that use the answer, or that resume and follow the search if it has none."""
    if study.settings.has_objects:
        return Section("use", "Use the result", (FROM_PYTHON,), commands=(_in_python(study),))
    if study.final is None:
        commands = [
            ("Resume the search", study.resume_command),
            ("Follow it while it runs", study.command("status", "--watch")),
        ]
        return Section("use", "Next steps", commands=tuple(commands))
    mask = ("--format", "mask", "-o", "mask.json")
    commands = [
        ("Write the report as a page with images", study.command("report")),
        ("Test it again in a new process", study.command("evaluate")),
        ("Classify an image", study.command("predict", "IMAGE")),
        ("Export the mask of tuned units", study.command("export", *mask)),
        ("Export the whole network as a state dict", study.command("export", "--format", "merged")),
        ("Run more trials", study.command("resume", "--trials", str(2 * len(study.trials) + 2))),
        _in_python(study),
    ]
    return Section("use", "Use the result", commands=tuple(commands))


def _in_python(study: BareStudy) -> tuple[str, str]:
    head = ", head_factory=..." if study.settings.head_factory is not None else ""
    if study.final is None:
        sources = f"backbone=..., task=...{head}"
        return "Resume it", f"autotune.resume({str(study.folder.path)!r}, {sources})"
    file = str(study.best.artifact)
    return "Load it in Python", f"autotune.load_adapted(backbone, {file!r}{head})"
