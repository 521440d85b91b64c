"""Last stage of a search: repeat finalists with other seeds, choose the winner and test it once."""

from __future__ import annotations

from statistics import mean

from autotune.errors import TrialError
from autotune.problem.budget import Cost
from autotune.problem.job import Job, Progress, used
from autotune.problem.plan import Plan
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.paired import Difference, Values, by_fold, paired
from autotune.study.reader import Records
from autotune.study.selection.baselines import PROBE, UNIFORM
from autotune.study.selection.extra_jobs import (
    Test,
    best_job,
    deliver_whole,
    forget_jobs,
    tested_as,
)
from autotune.study.selection.imported_trials import adopted
from autotune.study.stages import (
    FINAL,
    PROBE_REPEAT,
    REPEAT,
    Against,
    Baseline,
    Final,
    Repeat,
    Spread,
)
from autotune.study.trial_record import BASELINE_ORIGIN, TrialRecord
from autotune.utils.events import tell, warn
from autotune.utils.files import digest_of


def run_finalists(driver: Driver, backend: Backend, test: Test) -> None:
    """Choose the winner among the best three plans; write `best/` and the stage `final`.

    All three were trained with the study's seed. The best two are repeated with seed + 1, the
    better of these with seed + 2, and the linear probe with the seeds of the winner. If the
    winner's mean on validation does not beat the probe's, the answer is the empty plan.

    Raises `TrialError` if neither a trial nor the probe was completed.
    """
    _admit_uniform(driver)
    finalists = _finalists(driver, backend)
    probe = driver.baselines.get(PROBE)
    if not finalists and probe is None:
        raise TrialError("No trial was completed, so there is nothing to choose. See log.jsonl.")
    if finalists and probe is not None:
        _repeat_probe(driver, backend, probe, [s for s, _ in values_of(driver, finalists[0])])
    if probe is not None and not (finalists and _against_probe(driver, finalists[0]).mean > 0):
        _deliver_probe(driver, backend, test, probe)
    else:
        _deliver(driver, backend, test, finalists)


def _admit_uniform(driver: Driver) -> None:
    """Make uniform low rank a trial if it is among the best two plans.

    Then no plan is delivered that it beats on validation over the same seeds. Random placement
    stays a control, and profiles and fronts contain only plans of their strategy.
    """
    uniform = driver.baselines.get(UNIFORM)
    is_wanted = driver.price is None and driver.strategy.admits_baselines
    if uniform is None or not is_wanted or not uniform.fits or not _is_finalist(driver, uniform):
        return
    trial = adopted(
        driver.problem,
        driver.options.grids,
        uniform.plan,
        uniform.hyperparameters,
        value=uniform.value,
        metrics=uniform.metrics,
        curve=uniform.curve,
        folds=uniform.folds,
        origin=f"{BASELINE_ORIGIN}{UNIFORM}",
        seconds=uniform.seconds,
    )
    if trial is not None:
        number = driver.admit(trial).number
        text = f"Uniform low rank is among the best two plans: it becomes trial {number}."
        tell("admitted", text, number=number)


def _is_finalist(driver: Driver, baseline: Baseline) -> bool:
    """Whether a baseline is among the best two plans and better than its plan's own trial."""
    best = best_plans(driver.ranked(), 2)
    same = [record for record in best if record.plan == baseline.plan]
    rank = (-baseline.value, baseline.cost.parameters)
    return all(rank < record.rank()[:2] for record in same or best[1:])


def _finalists(driver: Driver, backend: Backend) -> list[TrialRecord]:
    """Best trials of the best two plans, the one with the better mean over two seeds first.

    A plan whose repeat fails is replaced by the next best one.
    """
    finalists, seed = best_plans(driver.ranked()), driver.options.seed
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
    """Best trial of each of the best `n` plans."""
    first: dict[str, TrialRecord] = {}
    for record in ranked:
        first.setdefault(record.plan.digest, record)
    return list(first.values())[:n]


def seed_values(records: Records, record: TrialRecord) -> dict[int, float]:
    """Seed → value on validation of a trial and its repeats."""
    assert record.value is not None
    repeats = records.repeats(record.number)
    return {records.seed: record.value, **{seed: r.value for seed, r in repeats.items()}}


def values_of(records: Records, record: TrialRecord) -> Values:
    """(seed, fold) → value on validation of a trial and its repeats."""
    assert record.value is not None
    values = by_fold(records.seed, record.value, record.folds)
    for seed, repeat in records.repeats(record.number).items():
        values |= repeat.values(seed)
    return values


def probe_values(records: Records) -> Values:
    """(seed, fold) → value on validation of the linear probe; empty if it did not run."""
    probe = records.baselines.get(PROBE)
    values = dict(probe.values(records.seed)) if probe else {}
    for seed, repeat in records.probe_repeats.items():
        values |= repeat.values(seed)
    return values


def _against_probe(records: Records, record: TrialRecord) -> Difference:
    return paired(values_of(records, record), probe_values(records))


def _mean(driver: Driver, record: TrialRecord, n_seeds: int) -> float:
    by_seed = sorted(seed_values(driver, record).items())
    return mean(value for _, value in by_seed[:n_seeds])


def repeat_job(record: TrialRecord, seed: int) -> Job:
    """Job that repeats a trial with another seed."""
    hyperparameters = used(record.plan, record.hyperparameters)
    return Job(f"repeat {record.number} seed {seed}", record.plan, hyperparameters, seed)


def _repeat(driver: Driver, backend: Backend, record: TrialRecord, seed: int) -> bool:
    """Run a finalist with another seed unless that is recorded; False if it fails."""
    if seed in driver.repeats(record.number):
        return True
    job = repeat_job(record, seed)
    try:
        trained = best_job([job], backend, driver)
    except TrialError as error:
        warn(f"A finalist is left out: {error}", number=record.number, seed=seed)
        return False
    driver.lease.check()
    last = trained.last
    if last.artifact is not None:
        driver.folder.write(driver.folder.delta(record.number, seed), last.artifact)
    driver.record(f"{REPEAT}:{record.number}:{seed}", repeat_of(last, trained.seconds))
    forget_jobs([job], driver)
    text = f"{job.name}: {last.value:.4f}"
    tell("repeat-of-finalist", text, number=record.number, seed=seed)
    return True


def repeat_of(last: Progress, seconds: float) -> Repeat:
    """Record of a repeat that ended with the progress `last`."""
    digest = "" if last.artifact is None else digest_of(last.artifact)
    return Repeat(last.value, last.metrics, last.folds, seconds, digest)


def _repeat_probe(driver: Driver, backend: Backend, probe: Baseline, seeds: list[int]) -> None:
    """Run the linear probe with the winner's other seeds, unless that is recorded."""
    for seed in sorted({*seeds} - {driver.options.seed} - driver.probe_repeats.keys()):
        job = Job(f"linear probe seed {seed}", Plan(), probe.hyperparameters, seed)
        trained = best_job([job], backend, driver)
        driver.record(f"{PROBE_REPEAT}:{seed}", repeat_of(trained.last, trained.seconds))
        forget_jobs([job], driver)


def _deliver(driver: Driver, backend: Backend, test: Test, finalists: list[TrialRecord]) -> None:
    winner, values = finalists[0], seed_values(driver, finalists[0])
    assert winner.value is not None
    files = {seed: _file(driver, backend, winner, seed) for seed in values}
    tell("stage", "Test", stage="test")
    tests = {seed: dict(test(content)) for seed, content in files.items()}
    first = tests[driver.options.seed]
    metric = tested_as(first, driver.metric)
    driver.lease.check()
    driver.folder.put_best(files[driver.options.seed], winner.plan.to_json())
    final = Final(
        plan=winner.plan,
        number=winner.number,
        value=winner.value,
        cost=driver.problem.cost(winner.plan),
        test=first,
        metrics=winner.metrics,
        hyperparameters=used(winner.plan, winner.hyperparameters),
        baseline=winner.baseline,
        values=Spread(values),
        tests=Spread({seed: metrics[metric] for seed, metrics in tests.items()}),
        against=_against_others(driver, finalists),
    )
    driver.record(FINAL, final)
    forget_jobs([repeat_job(winner, seed) for seed in values], driver)


def _against_others(driver: Driver, finalists: list[TrialRecord]) -> tuple[Against, ...]:
    """Paired differences of the winner to the other finalist and the linear probe."""
    winner, *others = finalists
    values = values_of(driver, winner)
    against = [Against(_name(r), r.cost, paired(values, values_of(driver, r))) for r in others]
    if by_probe := probe_values(driver):
        against.append(Against(PROBE, Cost(), paired(values, by_probe)))
    return tuple(against)


def _name(record: TrialRecord) -> str:
    """Name of the baseline that became this trial, or of the trial itself."""
    return record.baseline or f"trial {record.number}"


def _deliver_probe(driver: Driver, backend: Backend, test: Test, probe: Baseline) -> None:
    job = Job("empty plan", Plan(), probe.hyperparameters, driver.options.seed)
    content = _delivered(driver, backend, job)
    driver.lease.check()
    driver.folder.put_best(content, Plan().to_json())
    final = Final(
        plan=Plan(),
        number=None,
        value=probe.value,
        cost=driver.problem.cost(Plan()),
        test=test(content),
        metrics=probe.metrics,
        hyperparameters=probe.hyperparameters,
    )
    driver.record(FINAL, final)
    forget_jobs([job], driver)
    tell("empty", "No plan beats the linear probe on validation: the answer is the empty plan.")


def _file(driver: Driver, backend: Backend, winner: TrialRecord, seed: int) -> bytes:
    """Content of the winner's delta file for a seed; it is trained again if none was kept."""
    repeat = None if seed == driver.options.seed else seed
    path = driver.folder.delta(winner.number, repeat)
    if (content := driver.folder.read(path)) is not None:
        digest = winner.digest if repeat is None else driver.repeats(winner.number)[seed].digest
        if digest in ("", digest_of(content)):
            return content
        warn(f"{path} is not the file that was written, so its trial is trained again.")
    content = _delivered(driver, backend, repeat_job(winner, seed))
    driver.lease.check()
    driver.folder.write(path, content)
    return content


def _delivered(driver: Driver, backend: Backend, job: Job) -> bytes:
    """Content of the delta file of a job; with folds, of another training on all of them."""
    if driver.options.folds:
        return deliver_whole(job, backend, driver)
    artifact = best_job([job], backend, driver).last.artifact
    assert artifact is not None
    return artifact
