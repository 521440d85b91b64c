"""Which delta is exported: of a run the winner, a trial, or the best below a smaller budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors

from autotune.backbones.base import Backbone
from autotune.deltas.apply import require_fits
from autotune.deltas.artifact import Artifact, from_bytes, read_artifact
from autotune.deploy.export.base import Subject
from autotune.errors import ArtifactError, ConfigError, RunError
from autotune.problem.job import Job, used
from autotune.run.notebook import Study
from autotune.run.settings import OBJECT, Settings, read_settings
from autotune.session.api import named, reopened
from autotune.session.setup import Setup, find_backbone, parse_budget, released
from autotune.study.trial_record import TrialRecord
from autotune.utils.events import warn


def subject_of(
    path: str | Path,
    *,
    backbone: Any = None,
    task: Any = None,
    weights: str | None = None,
    head: str | None = None,
    trial: int | None = None,
    within: str | None = None,
    retrain: bool = False,
) -> Subject:
    """The delta of a run folder or a delta file, with its backbone.

    Of a run the winner; or a `trial` by its number; or the best completed one that fits a budget
    `within`. A trial whose delta was not kept is trained once more with `retrain`. Runs and delta
    files name their `backbone` (and `task`, to retrain) themselves; only objects and `python:`
    sources must be given. Raises `RunError`, `ConfigError` or `ArtifactError`.
    """
    if Path(path).is_dir():
        study = Study(path)
        settings = study.settings.model_copy(update=_given(weights=weights, head=head))
        found = find_backbone(settings, named(study, "backbone", backbone))
        record = _record(study, settings, found, trial, within)
        artifact = _artifact(study, record, retrain, found, task)
    else:
        if trial is not None or within is not None or retrain:
            raise ConfigError(f"--trial, --within and --retrain need a run folder, not {path}.")
        artifact = read_artifact(path)
        settings = _settings(artifact, weights=weights, head=head)
        found = find_backbone(settings, _own_source(artifact, backbone, str(path)))
    require_fits(found, artifact, str(path))
    return Subject(found, artifact, settings)


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _own_source(artifact: Artifact, given: Any, path: str) -> Any:
    """What is given, or the backbone that a file names; no code runs because a file names it."""
    source = artifact.header.get("about", {}).get("backbone")
    if given is not None:
        return given
    if not isinstance(source, str) or source == OBJECT or source.startswith("python:"):
        raise ArtifactError(
            f"The backbone of {path} must be named, the file has {source!r}: add --backbone."
        )
    return source


def _settings(artifact: Artifact, **given: str | None) -> Settings:
    """Those of a search that a delta file tells of."""
    about = artifact.header.get("about", {})
    if str(about.get("weights") or "").endswith((".pth", ".pt")) and given.get("weights") is None:
        raise ArtifactError(
            f"The weights of the backbone must be named: add --weights {about['weights']}"
        )
    names = ("backbone", "budget", "space", "granularity", "weights", "head")
    told = {name: about[name] for name in names if about.get(name) is not None}
    return read_settings({**told, **_given(**given)})


# of a run


def _record(
    study: Study, settings: Settings, backbone: Backbone, trial: int | None, within: str | None
) -> TrialRecord | None:
    """The trial that is asked for; None for the winner."""
    if trial is not None and within is not None:
        raise ConfigError("--trial names one, --within chooses one. Leave one of them out.")
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
    found = [record for record in study.trials if record.number == number]
    if not found or not found[0].is_complete:
        state = found[0].state_name if found else "not there"
        raise RunError(
            f"A trial must be complete to be exported, trial {number} of {study.folder.path} is "
            f"{state}. See autotune status --json."
        )
    return found[0]


def _artifact(
    study: Study, record: TrialRecord | None, retrain: bool, backbone: Backbone, task: Any
) -> Artifact:
    if record is None:
        return read_artifact(study.best.artifact)
    first = record.number if record.repeat_of is None else record.repeat_of
    for number in (record.number, first):
        if (file := study.folder.delta(number)).is_file():
            return read_artifact(file)
    if not retrain:
        raise RunError(
            f"The delta of trial {record.number} was not kept. Give --retrain to train it again."
        )
    return _retrained(study, record, backbone, task)


def _retrained(study: Study, record: TrialRecord, backbone: Backbone, task: Any) -> Artifact:
    """Its delta from the same training once more, with the study's seed and preparation."""
    rates = used(record.plan, record.hyperparameters)
    job = Job(f"trial {record.number}", record.plan, rates, study.settings.seed, record.number)
    with released(reopened(study, backbone, task)) as setup:
        _require_same(study, setup)
        prepared = study.folder.read(study.folder.prepared)
        if prepared:
            setup.engine.prepare(load_tensors(prepared))
        *_, last = setup.engine(replace(job, whole=study.settings.folds > 0))
    assert last.artifact is not None
    if record.value is not None and not study.settings.folds and last.value != record.value:
        warn(
            f"Trial {record.number} had {record.value:.4f} on validation, trained again "
            f"{last.value:.4f}: another machine, device or number of threads."
        )
    return from_bytes(last.artifact, f"trial {record.number}")


def _require_same(study: Study, setup: Setup) -> None:
    """What trained the trial, data and weights, is what trains it again."""
    found = {
        "data": setup.task.digest(),
        "backbone's fingerprint": setup.backbone.fingerprint,
    }
    for what, digest in found.items():
        if study.identity[what] != digest:
            raise RunError(
                f"A trial is trained again on the same data and weights, its {what} was "
                f"{study.identity[what][:12]}, is {digest[:12]}. Bring them back."
            )
