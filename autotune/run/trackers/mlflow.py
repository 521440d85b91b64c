"""MLflow: one run per search, with the values of trials by trial number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autotune.utils.events import Callback, Event


@contextmanager
def mlflow(uri: str) -> Iterator[Callback]:
    """Log to the experiment `autotune` of a server or store with this URI, one run per search."""
    import mlflow as library

    library.set_tracking_uri(uri)
    library.set_experiment("autotune")
    try:
        yield lambda event: _log(library, event)
    finally:
        library.end_run()


def _log(library: Any, event: Event) -> None:
    fields = event.fields
    if event.kind == "begin":
        library.end_run()
        library.start_run()
        names = ("task", "budget", "limit", "metric", "trials", "run")
        library.log_params({name: fields[name] for name in names})
    elif event.kind == "progress-of-trial":
        library.log_metric(f"trial-{fields['number']}", fields["value"], step=fields["step"])
    elif event.kind == "end" and fields["value"] is not None:
        field_of = {"value": "value", "parameters": "cost", "seconds": "seconds"}
        metrics = {name: fields[field] for name, field in field_of.items()}
        library.log_metrics(metrics, step=fields["number"])
    elif event.kind == "reference":
        library.log_metric(
            f"reference {fields['name'].replace('(', '').replace(')', '')}", fields["value"]
        )
    elif event.kind == "answer":
        library.set_tag("answer", event.text)
