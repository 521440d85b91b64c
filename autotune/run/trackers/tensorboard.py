"""TensorBoard: one curve per trial, the values of all trials by number, and the baselines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.utils.events import Callback, Event


@contextmanager
def tensorboard(folder: str) -> Iterator[Callback]:
    """Write event files to a folder."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        yield lambda event: _write(writer, event)


def _write(writer: Any, event: Event) -> None:
    fields = event.fields
    if event.kind == "progress-of-trial":
        writer.add_scalar(f"trial/{fields['number']}", fields["value"], fields["step"])
    elif event.kind == "end" and fields["value"] is not None:
        writer.add_scalar("value", fields["value"], fields["number"])
        writer.add_scalar("parameters", fields["cost"], fields["number"])
        writer.add_text("plan", fields["plan"], fields["number"])
    elif event.kind == "reference":
        writer.add_scalar(f"reference/{fields['name']}", fields["value"], 0)
    if event.kind in ("warning", "answer"):
        writer.add_text(event.kind, event.text)
