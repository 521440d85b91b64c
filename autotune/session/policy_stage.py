"""The stage that learns a policy: head, proxies, supernet; resumable after every round."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from autotune.errors import ConfigError, RunError, brief, first_line
from autotune.problem.grids import middles
from autotune.problem.knapsack import Scores
from autotune.problem.plan import Plan
from autotune.run.related import open_run
from autotune.session.setup import Setup
from autotune.study.checkpoint_file import pack, read_checkpoint
from autotune.study.driver import Driver
from autotune.study.policy.network import read_policy
from autotune.study.policy.policy import Policy
from autotune.study.policy.rank_correlation import rank_correlation
from autotune.study.policy.rounds import STABLE, Course, Schedule, run_rounds
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder
from autotune.study.stages import POLICY, PROXIES, PolicyStage, from_rows, rows
from autotune.study.strategies.policy import PolicySampler
from autotune.study.strategies.score_source import ScoreSource
from autotune.training.checkpoint import read_header
from autotune.training.oneshot.supernet import can_share
from autotune.training.oneshot.trainer import ChoiceMeasurements, OneShot, one_shot
from autotune.training.oneshot.unit_scores import scores_by_half
from autotune.training.out_of_memory import is_out_of_memory
from autotune.training.resuming import UNUSABLE
from autotune.utils.events import tell, warn

DISAGREES = 0.5
"""Rank correlation of the proxies of two halves below which a warning says that they disagree.

Not tuned: only the warning depends on it.
"""

MOVED = 0.01
"""Largest change of a probability below which a warning says that the policy did not move.

Not tuned: only the warning depends on it.
"""


def learned_scores(folder: RunFolder, setup: Setup, driver: Driver) -> Scores | None:
    """(unit, label) → score, computed now unless recorded; None if the strategy uses none."""
    source = driver.strategy.score_source
    if source is ScoreSource.NONE:
        return None
    if source is ScoreSource.PROXIES:
        return _proxy_scores(setup, driver)
    if driver.policy_stage is None:
        driver.record(POLICY, _learn(folder, setup, driver))
    folder.supernet.unlink(missing_ok=True)
    assert driver.policy_stage is not None
    return _scores(driver.policy_stage)


def _proxy_scores(setup: Setup, driver: Driver) -> Scores:
    """Scores from one criterion, computed like a policy's first scores.

    They are concave in the criterion and the price.
    """
    if driver.attribute(PROXIES) is None:
        began = time.monotonic()
        tell("stage", "Proxies", stage="proxies")
        first, second = _by_criterion(setup, driver)
        driver.write(PROXIES, [rows(first), rows(second)])
        _report_agreement(_agreement((first, second)))
        tell("proxies", f"Proxies took {time.monotonic() - began:.1f} s.")
    policy = _policy(setup, driver)
    return policy.first_scores


def _by_criterion(setup: Setup, driver: Driver) -> tuple[ChoiceMeasurements, ChoiceMeasurements]:
    """(unit, label of one method) → `mass`: value of the criterion, for two halves of the data."""
    choices, head_rates = driver.problem.choices, setup.grids["lr:head"]
    name = driver.strategy.criterion
    if name in ("mass", "ratio"):
        with one_shot(setup.engine, choices, middles(setup.grids), head_rates) as shot:
            proxies = shot.proxies() if name == "ratio" else shot.proxies(draws=0)
            first, second = ({e: _mass(name, m) for e, m in half.items()} for half in proxies)
            return first, second
    entries = {(u, m.label) for u, offers in choices.items() for c in offers for m in c.methods}
    halves = scores_by_half(setup.engine, name, head_rates)
    first, second = (
        {(u, label): {"mass": values[u]} for u, label in sorted(entries) if u in values}
        for values in halves
    )
    return first, second


def _mass(name: str, proxies: Mapping[str, float]) -> dict[str, float]:
    """The gradient's mass, or its ratio to the mass expected by chance."""
    by_chance = proxies["mass"] / proxies["chance"] if proxies["chance"] else 0.0
    return {"mass": by_chance if name == "ratio" else proxies["mass"]}


def _learn(folder: RunFolder, setup: Setup, driver: Driver) -> PolicyStage:
    """Learn the policy and report the outcome."""
    began, schedule = time.monotonic(), Schedule.of(setup.settings.epochs)
    if setup.settings.supernet:
        policy, course, rates = _by_other_run(setup, driver)
    elif can_share(driver.problem.choices):
        policy, course, rates = _by_supernet(folder, setup, driver, schedule)
    else:
        driver.write(PROXIES, [[], []])
        policy, course, rates = _policy(setup, driver), Course(), {}
    stage = _outcome(policy, course, rates, _agreement(_halves(driver)), began)
    _report(stage)
    return stage


def _by_supernet(
    folder: RunFolder, setup: Setup, driver: Driver, schedule: Schedule
) -> tuple[Policy, Course, dict[str, float]]:
    """Train a supernet; returns the policy, its course, and the rates that trials begin at."""
    choices, head_rates = driver.problem.choices, setup.grids["lr:head"]
    tell("stage", "Head", stage="head")
    with one_shot(setup.engine, choices, middles(setup.grids), head_rates) as shot:
        tell("stage", "Proxies", stage="proxies")
        if driver.attribute(PROXIES) is None:
            driver.write(PROXIES, [rows(half) for half in shot.proxies()])
        policy = _policy(setup, driver)
        course = _restored(folder, shot, policy)
        tell("stage", "Supernet", stage="supernet")
        for _ in run_rounds(policy, shot, schedule, course):
            driver.lease.check()
            folder.write(folder.supernet, pack(_checkpoint(shot, policy, course), {}))
            _report_round(course, schedule)
        return policy, course, {"lr:head": shot.rates["lr:head"]}


def open_supernet(run: str, identity: Mapping[str, Any], statistics: str | None) -> Records:
    """Records of the run given by `--supernet`; `ConfigError` if its training differs."""
    other = open_run(run, "--supernet", identity, statistics)
    if other.policy_stage is None:
        raise ConfigError(
            f"--supernet needs a run that learned a policy, {other.folder.path} did not. "
            "Leave it out."
        )
    return other


def _by_other_run(setup: Setup, driver: Driver) -> tuple[Policy, Course, dict[str, float]]:
    """Learn from the measurements of another run's supernet, whose budget may differ."""
    assert setup.settings.supernet is not None
    assert driver.preparation is not None
    statistics = driver.preparation.bnstats
    other = open_supernet(setup.settings.supernet, driver.identity, statistics)
    stage = other.policy_stage
    assert stage is not None
    driver.write(PROXIES, other.attribute(PROXIES))
    policy = _policy(setup, driver)
    policy.observe(stage.earned)
    course = Course(stage.rounds, (policy.plan(),) * (STABLE + 1) if stage.stable else ())
    return policy, course, dict(stage.rates)


def save_policy(folder: RunFolder, setup: Setup, driver: Driver) -> None:
    """Train the policy's network on the trials, and write `best/policy.safetensors`."""
    if driver.strategy.score_source is not ScoreSource.POLICY:
        return
    stage, settings = driver.policy_stage, setup.settings
    assert stage is not None
    policy = _policy(setup, driver)
    policy.observe(stage.earned)
    sampler = PolicySampler(driver.problem, setup.grids, seed=settings.seed, scores=_scores(stage))
    network = policy.learned(sampler.believed(driver.study))
    folder.write(
        folder.policy, network.to_bytes({"task": settings.task, "budget": settings.budget})
    )


def _policy(setup: Setup, driver: Driver) -> Policy:
    """Policy from the recorded proxies, before any credit is earned."""
    file = setup.settings.policy
    network = read_policy(file) if file else None
    return Policy(driver.problem, _mean(_halves(driver)), network, seed=setup.settings.seed)


def _scores(stage: PolicyStage) -> Scores:
    """(unit, label) → score; also (hyperparameter, value) → 1 for rates that trials begin at."""
    return {**stage.scores, **{(name, str(rate)): 1.0 for name, rate in stage.rates.items()}}


def _halves(driver: Driver) -> tuple[ChoiceMeasurements, ChoiceMeasurements]:
    """Recorded proxies of two disjoint halves of the data."""
    first, second = map(from_rows, driver.attribute(PROXIES))
    return first, second


def _mean(halves: tuple[ChoiceMeasurements, ChoiceMeasurements]) -> ChoiceMeasurements:
    first, second = halves
    return {
        entry: {name: (value + second[entry][name]) / 2 for name, value in measured.items()}
        for entry, measured in first.items()
    }


def _checkpoint(shot: OneShot, policy: Policy, course: Course) -> bytes:
    header = {
        "done": course.done,
        "earned": rows(policy.earned),
        "plans": [plan.to_json() for plan in course.plans],
        "probabilities": [rows(after) for after in course.probabilities],
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in shot.state().items()}
    return save_tensors(tensors, {"course": json.dumps(header)})


def _restored(folder: RunFolder, shot: OneShot, policy: Policy) -> Course:
    """Restore supernet, policy and course of an interrupted session."""
    unpacked = read_checkpoint(folder.supernet, "the supernet")
    if unpacked is None:
        return Course()
    try:
        return _resumed(unpacked[1], shot, policy)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise RunError(
            f"A supernet must resume from what it saved, {folder.supernet} is something else "
            f"({brief(first_line(error))}). Remove it to train the supernet again."
        ) from error


def _resumed(checkpoint: bytes, shot: OneShot, policy: Policy) -> Course:
    header = read_header(checkpoint)["course"]
    course = Course(
        int(header["done"]),
        tuple(map(Plan.from_json, header["plans"])),
        tuple(map(from_rows, header["probabilities"])),
    )
    earned = from_rows(header["earned"])
    shot.restore(load_tensors(checkpoint), course.done)
    policy.observe(earned)
    return course


def _report_round(course: Course, schedule: Schedule) -> None:
    plan = f": {course.plans[-1]}" if course.plans else " (warm-up)"
    tell(
        "round",
        f"round {course.done}/{schedule.rounds}{plan}",
        done=course.done,
        total=schedule.rounds,
    )


def _outcome(
    policy: Policy,
    course: Course,
    rates: Mapping[str, float],
    agreement: float | None,
    began: float,
) -> PolicyStage:
    return PolicyStage(
        scores=policy.scores(),
        earned=policy.earned,
        has_earned=bool(policy.believed),
        plan=policy.plan(),
        proxies_plan=policy.first_plan(),
        rounds=course.done,
        stable=course.is_stable,
        probabilities=course.probabilities,
        agreement=agreement,
        moved=policy.moved(),
        unreached=tuple(sorted(f"{unit} {label}" for unit, label in policy.unreached())),
        left_out=tuple(sorted({label for _, label in policy.unseen()})),
        rates=rates,
        seconds=time.monotonic() - began,
    )


def _agreement(halves: tuple[ChoiceMeasurements, ChoiceMeasurements]) -> float | None:
    """Spearman's correlation of the masses of two halves; None for fewer than three values."""
    first, second = ([measured["mass"] for _, measured in sorted(half.items())] for half in halves)
    if len({*first}) < 3 or len({*second}) < 3:
        return None
    return rank_correlation(first, second)


def _report_agreement(agreement: float | None) -> None:
    if agreement is None:
        return
    tell("agreement", f"Rank correlation of the proxies of two halves: {agreement:.2f}.")
    if agreement < DISAGREES:
        warn(
            f"The proxies of two halves of the data disagree (rank correlation {agreement:.2f}), "
            "so they are unreliable."
        )


def _report(stage: PolicyStage) -> None:
    tell("policy", f"Policy after {stage.rounds} rounds: {stage.plan}")
    if stage.left_out:
        tell(
            "policy-left-out",
            f"Left to the trials alone, as they cannot share a supernet: "
            f"{', '.join(stage.left_out)}.",
        )
    _report_agreement(stage.agreement)
    if stage.unreached:
        warn(
            f"No gradient reaches {len(stage.unreached)} choices, so they are not proposed: "
            f"{', '.join(stage.unreached)}."
        )
    if not stage.has_earned:
        warn("No choice earned anything in the supernet, so the policy is that of the proxies.")
    elif stage.moved < MOVED:
        warn("The supernet did not move the policy away from the proxies.")
    elif stage.same_as_proxies:
        tell("policy-same", "The supernet chose the plan that the proxies alone would have.")
    if stage.rounds and not stage.stable:
        warn(f"The policy's plan was still changing when its {stage.rounds} rounds were over.")
