"""Section on the state of a search and the number of trials in each state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from autotune.run.report.history import answered_from_record
from autotune.run.report.section import Section

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """State of the search and counts of its trials, without baselines admitted as trials."""
    trials = [trial for trial in study.trials if not trial.baseline]
    states = Counter(study.state_of(trial) for trial in trials)
    counts = ", ".join(f"{n:,} {state}" for state, n in states.items()) or "none yet"
    most = study.settings.most_trials
    limit = "" if most is None else f" of at most {most:,}"
    text = f"The search in {study.folder.path} is {study.state}. Trials: {counts}{limit}."
    return Section("status", "Status", (text, *answered_from_record(study.trials)))
