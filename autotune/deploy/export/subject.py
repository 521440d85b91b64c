"""Selection of the delta to export: the winner of a run, a trial, or the best within a budget."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.backbones.base import Backbone
from autotune.backbones.heads.factory import HeadFactory
from autotune.deltas.apply import described, require_fits
from autotune.deltas.artifact import Artifact, from_bytes, read_artifact
from autotune.deploy.export.base import Subject
from autotune.errors import ArtifactError, ConfigError, RunError
from autotune.problem.job import Job, used
from autotune.run.notebook import Study
from autotune.run.settings import OBJECT, Settings, read_settings
from autotune.session.api import named, reopened
from autotune.session.beginning import read_buffers
from autotune.session.costing import parse_budget
from autotune.session.setup import Setup, released
from autotune.session.sources import find_backbone
from autotune.study.trial_record import TrialRecord
from autotune.utils.events import warn
from autotune.utils.files import digest_of


def subject_of(
    path: str | Path,
    *,
    backbone: Any = None,
    task: Any = None,
    weights: str | None = None,
    head: str | None = None,
    head_factory: str | HeadFactory | None = None,
    storage: str | None = None,
    trial: int | None = None,
    within: str | None = None,
    retrain: bool = False,
) -> Subject:
    """Load a delta from a run folder or delta file, together with its backbone.

    For a run, selects the winner by default, the trial with the number `trial`, or the best
    complete trial that fits the budget `within`. With `retrain`, a trial whose delta was not kept
    is trained again. `backbone` (and `task`, for `retrain`) are read from the run or the file
    unless they were Python objects or `python:` sources; `head_factory` is needed if the search had
    one. Raises `RunError`, `ConfigError` or `ArtifactError`.
    """
    if Path(path).is_dir():
        study = Study(path, storage=storage)
        factory = named(study, "head_factory", head_factory)
        overrides = {**_present(weights=weights, head=head), "head_factory": factory}
        settings = study.settings.model_copy(update=overrides)
        loaded = find_backbone(settings, named(study, "backbone", backbone))
        record = _record(study, settings, loaded, trial, within)
        artifact = _artifact(study, record, retrain, loaded, task)
    else:
        if trial is not None or within is not None or retrain:
            raise ConfigError(f"--trial, --within and --retrain need a run folder, not {path}.")
        artifact = read_artifact(path)
        settings = _settings(artifact, weights=weights, head=head, head_factory=head_factory)
        loaded = find_backbone(settings, _backbone_source(artifact, backbone, str(path)))
    loaded = described(loaded, artifact)
    require_fits(loaded, artifact, str(path))
    return Subject(loaded, artifact, settings)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _backbone_source(artifact: Artifact, backbone: Any, path: str) -> Any:
    """`backbone`, or else the source that the delta file names.

    A `python:` source in a file is refused, because loading it would execute code.
    """
    if backbone is not None:
        return backbone
    source = artifact.header.get("about", {}).get("backbone")
    if not isinstance(source, str) or source == OBJECT or source.startswith("python:"):
        raise ArtifactError(
            f"The backbone of {path} must be given, the file names {source!r}. Add --backbone."
        )
    return source


def _settings(artifact: Artifact, **overrides: Any) -> Settings:
    """Settings of the search recorded in a delta file, with `overrides` that are not None."""
    about = artifact.header.get("about", {})
    is_pickle = str(about.get("weights") or "").endswith((".pth", ".pt", ".bin"))
    if is_pickle and overrides.get("weights") is None:
        raise ArtifactError(
            "The weights of the backbone must be given: add --weights "
            f"{shlex.quote(str(about['weights']))}"
        )
    names = ("backbone", "budget", "space", "granularity", "weights", "head")
    recorded = {name: about[name] for name in names if about.get(name) is not None}
    return read_settings({**recorded, **_present(**overrides)})


# selection from a run


def _record(
    study: Study, settings: Settings, backbone: Backbone, trial: int | None, within: str | None
) -> TrialRecord | None:
    """Record of the requested trial; None for the winner."""
    if trial is not None and within is not None:
        raise ConfigError("--trial and --within exclude each other. Leave one of them out.")
    if trial is not None:
        return _numbered(study, trial)
    if within is None:
        return None
    smaller = settings.model_copy(update={"budget": within})
    budget = parse_budget(smaller, backbone)
    fixed = study.problem.fixed
    fitting = [r for r in study._records.ranked() if budget.fits(r.cost + fixed)]
    if not fitting:
        raise RunError(f"No trial of {study.folder.path} fits {within}. See autotune status.")
    return fitting[0]


def _numbered(study: Study, number: int) -> TrialRecord:
    record = next((record for record in study.trials if record.number == number), None)
    if record is None or not record.is_complete:
        state = record.state_name if record else "missing"
        raise RunError(
            f"A trial must be complete to be exported, trial {number} of {study.folder.path} is "
            f"{state}. See autotune status --json."
        )
    return record


def _artifact(
    study: Study, record: TrialRecord | None, retrain: bool, backbone: Backbone, task: Any
) -> Artifact:
    if record is None:
        return read_artifact(study.best.artifact)
    first = record.number if record.repeat_of is None else record.repeat_of
    for number in (record.number, first):
        if (content := study.folder.read(file := study.folder.delta(number))) is not None:
            if record.digest in ("", digest_of(content)):
                return from_bytes(content, str(file))
            warn(f"{file} is not the file that was written, so it is not exported.")
    if not retrain:
        raise RunError(
            f"The delta of trial {record.number} was not kept. Use --retrain to train it again."
        )
    return _retrained(study, record, backbone, task)


def _retrained(study: Study, record: TrialRecord, backbone: Backbone, task: Any) -> Artifact:
    """Delta of a trial, trained again with the seed and the preparation of the study."""
    rates = used(record.plan, record.hyperparameters)
    job = Job(f"trial {record.number}", record.plan, rates, study.settings.seed, record.number)
    with released(reopened(study, backbone, task, backend="inline")) as setup:
        _require_same(study, setup)
        file = study.folder.prepared
        if prepared := study.folder.read(file):
            network = setup.backbone.network
            setup.engine.prepare(read_buffers(prepared, str(file), network))
        *_, last = setup.engine(replace(job, whole=study.settings.folds > 0))
    assert last.artifact is not None
    if record.value is not None and not study.settings.folds and last.value != record.value:
        warn(
            f"Trial {record.number} had the validation score {record.value:.4f}; trained again, it "
            f"has {last.value:.4f}. The machine, the device or the number of threads may differ."
        )
    return from_bytes(last.artifact, f"trial {record.number}")


def _require_same(study: Study, setup: Setup) -> None:
    """Raise `RunError` if the data or the weights differ from those the trial was trained with."""
    digests = {
        "data": setup.task.digest(),
        "backbone's fingerprint": setup.backbone.fingerprint,
    }
    for what, digest in digests.items():
        if (before := study.identity_value(what)) != digest:
            raise RunError(
                f"Retraining needs the data and weights of the trial; the {what} was "
                f"{before[:12]} and is now {digest[:12]}. Restore the original."
            )
