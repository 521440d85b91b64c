"""Weights & Biases: one run per command; `WANDB_MODE=offline` keeps it on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.utils.events import Callback, Event


@contextmanager
def wandb(project: str) -> Iterator[Callback]:
    """Log to one new run of a project."""
    import wandb as library

    with library.init(project=project) as run:
        yield lambda event: _log(run, event)


def _log(run: Any, event: Event) -> None:
    fields = event.fields
    if event.kind == "begin":
        run.config.update(dict(fields), allow_val_change=True)
    elif event.kind == "progress-of-trial":
        run.log({f"trial/{fields['number']}": fields["value"], "epoch": fields["step"]})
    elif event.kind == "end" and fields["value"] is not None:
        names = {"value": "value", "parameters": "cost", "trial": "number"}
        run.log({name: fields[field] for name, field in names.items()})
        run.summary["best"] = max(fields["value"], run.summary.get("best", fields["value"]))
    elif event.kind == "reference":
        run.summary[f"reference {fields['name']}"] = fields["value"]
    elif event.kind == "answer":
        run.summary["answer"] = event.text
