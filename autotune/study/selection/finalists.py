"""The end of a search: finalists over seeds, the winner, and the one look at the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import mean, stdev
from typing import Any

from autotune.errors import TrialError
from autotune.problem.budget import Cost
from autotune.problem.job import Job, used
from autotune.problem.plan import Plan
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.reader import Records
from autotune.study.selection.baselines import PROBE, UNIFORM
from autotune.study.selection.extra_jobs import Test, best_job, deliver_whole, tested_as, told_of
from autotune.study.selection.imported_trials import adopted
from autotune.study.selection.paired import Difference, Values, by_fold, paired
from autotune.study.trial_record import BASELINE, TrialRecord
from autotune.utils.events import tell, warn
from autotune.utils.files import write_whole


def run_finalists(driver: Driver, backend: Backend, test: Test) -> None:
    """Three, two, one; then `best/` and the stage `final`.

    The best three plans have the study's seed already; the best two of them run again with
    seed + 1, the best of these with seed + 2, and the linear probe with all three. Where the
    winner's mean does not beat the probe's on validation, the answer is the empty plan.
    """
    _admit_uniform(driver)
    finalists = _finalists(driver, backend)
    probe = driver.attribute(f"reference:{PROBE}")
    if not finalists and probe is None:
        raise TrialError("No trial was completed, so there is nothing to choose. See log.jsonl.")
    if finalists and probe is not None:
        _repeat_probe(driver, backend, probe, [s for s, _ in values_of(driver, finalists[0])])
    if not finalists or (probe is not None and _against_probe(driver, finalists[0]).mean <= 0):
        _deliver_probe(driver, backend, test, probe)
    else:
        _deliver(driver, backend, test, finalists)


def _admit_uniform(driver: Driver) -> None:
    """Uniform low rank becomes a trial where it is among the best two plans.

    So no plan is delivered that it beats on validation, over equal seeds. Random placement stays
    a control, and a profile or a front is not to be filled with anything else.
    """
    found = driver.attribute(f"reference:{UNIFORM}")
    is_wanted = driver.price is None and driver.strategy.admits_baselines
    if found is None or not is_wanted or not found["fits"] or not _is_finalist(driver, found):
        return
    trial = adopted(
        driver.problem,
        driver.setting.grids,
        Plan.from_json(found["plan"]),
        found["hyperparameters"],
        value=found["value"],
        metrics=found["metrics"],
        curve=found.get("curve", ()),
        folds=found.get("folds", ()),
        origin=f"{BASELINE}{UNIFORM}",
        seconds=found["seconds"],
    )
    if trial is not None:
        number = driver.admit(trial).number
        told = f"Uniform low rank is among the best two plans: it stands as trial {number}."
        tell("admitted", told, number=number)


def _is_finalist(driver: Driver, baseline: Mapping[str, Any]) -> bool:
    """Whether a reference that is no trial yet is better than the second of the best plans."""
    best = best_plans(driver.ranked(), 2)
    same = [record for record in best if record.plan.to_json() == baseline["plan"]]
    rank = (-baseline["value"], baseline["cost"]["parameters"])
    return all(rank < record.rank()[:2] for record in same or best[1:])


def _finalists(driver: Driver, backend: Backend) -> list[TrialRecord]:
    """The best two plans, the better one over two seeds first.

    One whose repeat fails is passed over.
    """
    finalists, seed = best_plans(driver.ranked()), driver.setting.seed
    two: list[TrialRecord] = []
    while len(two) < 2 and finalists:
        record = finalists.pop(0)
        if _repeat(driver, backend, record, seed + 1):
            two.append(record)
    two.sort(key=lambda r: (-_mean(driver, r, 2), r.rank()[1]))
    if two:
        _repeat(driver, backend, two[0], seed + 2)
    return two


def best_plans(ranked: list[TrialRecord], n: int = 3) -> list[TrialRecord]:
    """The best trial of each of the best `n` plans."""
    first: dict[str, TrialRecord] = {}
    for record in ranked:
        first.setdefault(record.plan.digest, record)
    return list(first.values())[:n]


def seed_values(records: Records, record: TrialRecord) -> dict[int, float]:
    """Seed → value on validation of a trial and its repeats."""
    assert record.value is not None
    repeats = records.attributes(f"repeat:{record.number}")
    return {records.seed: record.value, **{int(s): r["value"] for s, r in repeats.items()}}


def values_of(records: Records, record: TrialRecord) -> Values:
    """(seed, fold) → value on validation of a trial and its repeats."""
    assert record.value is not None
    found = by_fold(records.seed, record.value, record.folds)
    for seed, repeat in records.attributes(f"repeat:{record.number}").items():
        found |= by_fold(int(seed), repeat["value"], repeat.get("folds", ()))
    return found


def probe_values(records: Records) -> Values:
    """(seed, fold) → value on validation of the linear probe; nothing where it did not run."""
    own = {str(records.seed): records.attribute(f"reference:{PROBE}")}
    found: dict[tuple[int, int], float] = {}
    for seed, probe in (own | records.attributes("probe")).items():
        if probe is not None:
            found |= by_fold(int(seed), probe["value"], probe.get("folds", ()))
    return found


def _against_probe(records: Records, record: TrialRecord) -> Difference:
    return paired(values_of(records, record), probe_values(records))


def _mean(driver: Driver, record: TrialRecord, n_seeds: int) -> float:
    by_seed = sorted(seed_values(driver, record).items())
    return mean(value for _, value in by_seed[:n_seeds])


def repeat_job(record: TrialRecord, seed: int) -> Job:
    """A trial's training with another seed."""
    hyperparameters = used(record.plan, record.hyperparameters)
    return Job(f"repeat {record.number} seed {seed}", record.plan, hyperparameters, seed)


def _repeat(driver: Driver, backend: Backend, record: TrialRecord, seed: int) -> bool:
    """Run a finalist with another seed, unless that is recorded; False when it fails."""
    name = f"repeat:{record.number}:{seed}"
    if driver.attribute(name) is not None:
        return True
    try:
        found = best_job([repeat_job(record, seed)], backend)
    except TrialError as error:
        warn(f"A finalist is passed over: {error}", number=record.number, seed=seed)
        return False
    driver.lease.check()
    last = found.last
    if last.artifact is not None:
        write_whole(driver.folder.delta(record.number, seed), last.artifact)
    driver.record(name, {**told_of(last), "seconds": found.seconds})
    said = f"{found.job.name}: {last.value:.4f}"
    tell("repeat-of-finalist", said, number=record.number, seed=seed)
    return True


def _repeat_probe(
    driver: Driver, backend: Backend, probe: Mapping[str, Any], seeds: list[int]
) -> None:
    """The linear probe with the winner's other seeds, where that is not recorded."""
    for seed in sorted({*seeds} - {driver.setting.seed}):
        if driver.attribute(f"probe:{seed}") is None:
            job = Job(f"linear probe seed {seed}", Plan(), probe["hyperparameters"], seed)
            found = best_job([job], backend)
            driver.record(f"probe:{seed}", {**told_of(found.last), "seconds": found.seconds})


def _deliver(driver: Driver, backend: Backend, test: Test, finalists: list[TrialRecord]) -> None:
    winner, values = finalists[0], seed_values(driver, finalists[0])
    own = driver.setting.seed
    files = {seed: _file(driver, backend, winner, seed) for seed in values}
    tell("stage", "Test", stage="test")
    tests = {seed: dict(test(content)) for seed, content in files.items()}
    driver.lease.check()
    driver.folder.put_best(files[own], winner.plan.to_json())
    found = _final(driver, winner.plan, winner.number, winner.value, tests[own])
    found["metrics"] = dict(winner.metrics)
    found["hyperparameters"] = used(winner.plan, winner.hyperparameters)
    found["reference"] = winner.baseline
    found["values"] = _spread(values)
    metric = tested_as(tests[own], driver.attribute("identity")["metric"])
    found["tests"] = _spread({s: t[metric] for s, t in tests.items()})
    found["against"] = _rivals(driver, finalists)
    driver.record("stage:final", found)


def _rivals(driver: Driver, finalists: list[TrialRecord]) -> list[dict[str, Any]]:
    """What the winner is compared with, pair by pair: the other finalist and the linear probe."""
    winner, *others = finalists
    ours = values_of(driver, winner)
    rivals = [(_name(r), r.cost, paired(ours, values_of(driver, r))) for r in others]
    if theirs := probe_values(driver):
        rivals.append((PROBE, Cost(), paired(ours, theirs)))
    return [{"name": n, "cost": asdict(cost), **found.to_json()} for n, cost, found in rivals]


def _name(record: TrialRecord) -> str:
    """As a reference is called, where it was one."""
    return record.baseline or f"trial {record.number}"


def _deliver_probe(driver: Driver, backend: Backend, test: Test, probe: Mapping[str, Any]) -> None:
    job = Job("empty plan", Plan(), probe["hyperparameters"], driver.setting.seed)
    content = _delivered(driver, backend, job)
    driver.lease.check()
    driver.folder.put_best(content, Plan().to_json())
    found = _final(driver, Plan(), None, probe["value"], test(content))
    found["metrics"] = probe["metrics"]
    found["hyperparameters"] = probe["hyperparameters"]
    driver.record("stage:final", found)
    tell("empty", "No plan beats the linear probe on validation: the answer is the empty plan.")


def _final(
    driver: Driver, plan: Plan, number: int | None, value: float | None, test: Mapping[str, float]
) -> dict[str, Any]:
    cost = driver.problem.cost(plan)
    return {
        "number": number,
        "plan": plan.to_json(),
        "label": str(plan),
        "value": value,
        "cost": asdict(cost),
        "test": dict(test),
        "empty": not plan.choices,
    }


def _file(driver: Driver, backend: Backend, winner: TrialRecord, seed: int) -> bytes:
    """The winner's delta file with this seed; trained again where none was kept."""
    repeat = None if seed == driver.setting.seed else seed
    path = driver.folder.delta(winner.number, repeat)
    if (content := driver.folder.read(path)) is not None:
        return content
    content = _delivered(driver, backend, repeat_job(winner, seed))
    driver.lease.check()
    write_whole(path, content)
    return content


def _delivered(driver: Driver, backend: Backend, job: Job) -> bytes:
    """The delta file of a job: under folds, of one more training on all of them together."""
    if driver.setting.folds:
        return deliver_whole(job, backend)
    artifact = best_job([job], backend).last.artifact
    assert artifact is not None
    return artifact


def _spread(by_seed: Mapping[int, float]) -> dict[str, Any]:
    values = list(by_seed.values())
    return {
        "seeds": {str(seed): value for seed, value in by_seed.items()},
        "mean": mean(values),
        "std": stdev(values) if len(values) > 1 else 0.0,
    }
