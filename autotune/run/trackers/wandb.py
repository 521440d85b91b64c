"""Weights & Biases: one run a search; `WANDB_MODE=offline` keeps it on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.utils.events import Callback, Event


@contextmanager
def wandb(project: str) -> Iterator[Callback]:
    """A run in a project."""
    import wandb as library

    with library.init(project=project) as run:
        yield lambda event: _log(run, event)


def _log(run: Any, event: Event) -> None:
    told = event.fields
    if event.kind == "begin":
        run.config.update(dict(told), allow_val_change=True)
    elif event.kind == "progress-of-trial":
        run.log({f"trial/{told['number']}": told["value"], "epoch": told["step"]})
    elif event.kind == "end" and told["value"] is not None:
        numbers = {"value": told["value"], "parameters": told["cost"], "trial": told["number"]}
        run.log(numbers)
        run.summary["best"] = max(told["value"], run.summary.get("best", told["value"]))
    elif event.kind == "reference":
        run.summary[f"reference {told['name']}"] = told["value"]
    elif event.kind == "answer":
        run.summary["answer"] = event.text
