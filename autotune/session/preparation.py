"""Preparation: decide once, before the first trial, whether statistics are re-estimated.

Like every stage it is resumable: its trainings keep checkpoints, and each result is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from autotune.errors import TrialError
from autotune.problem.budget import Cost
from autotune.problem.grids import three_rates
from autotune.problem.plan import Plan
from autotune.problem.recipes import uniform_placement
from autotune.session.setup import Setup
from autotune.study.backends.inline import InlineBackend
from autotune.study.selection.baselines import PROBE, UNIFORM, baseline_jobs, train_baseline
from autotune.study.selection.extra_jobs import forget_jobs
from autotune.study.stages import (
    BASELINE,
    BEGUN_BASELINE,
    PREPARATION,
    PREPARING,
    Baseline,
    Preparation,
    Recorded,
)
from autotune.study.writer import Writer
from autotune.training.batchnorm import has_statistics, statistics_cost
from autotune.utils.events import tell, warn
from autotune.utils.timings import spent

Buffers = Mapping[str, torch.Tensor]
BuffersByMode = Mapping[str, Buffers]
"""`off` and `on` → buffers of the backbone in this mode; empty means as it was loaded."""

ByMode = Mapping[str, Baseline]
"""`off` and `on` → baseline trained with these buffers."""


def settle_preparation(setup: Setup, writer: Writer) -> tuple[Buffers, dict[str, Recorded]]:
    """Return the prepared buffers (empty: off) and the records of the trainings that decided.

    `auto` compares uniform low rank on validation, with re-estimated statistics and without, each
    at the better of two learning rates. Linear probes alone would mislead: they gain from new
    statistics what tuned layers may gain more from training. They decide if there is no low rank,
    or if it is no better than they are. Trainings of the other mode are recorded as baselines too.
    """
    setting, engine, network = setup.settings.bnstats, setup.engine, setup.backbone.network
    if not has_statistics(network):
        return {}, {PREPARATION: Preparation("off", "no statistics to estimate")}
    tell("stage", "Preparation", stage="preparation")
    if setting == "auto" and setup.problem.charged(cost := statistics_cost(network)).is_empty():
        why = f"re-estimated statistics ({cost.bytes:,} bytes) leave no room in the budget"
        tell("preparation", f"Normalisation statistics kept: {why}.")
        return {}, {PREPARATION: Preparation("off", why)}
    with spent("prefix"):
        buffers: BuffersByMode = {"off": {}, "on": engine.statistics()}
    if setting != "auto" and not setup.settings.references:
        return buffers[setting], {PREPARATION: Preparation(setting, "as requested")}
    probes = {mode: _probe(setup, writer, values) for mode, values in buffers.items()}
    uniform = _uniform(setup, writer, buffers, probes) if setting == "auto" else {}
    mode, why = _chosen(probes, uniform) if setting == "auto" else (setting, "as requested")
    _report(mode, probes, uniform)
    return buffers[mode], _records(setup, mode, why, probes, uniform)


def _chosen(probes: ByMode, uniform: ByMode) -> tuple[str, str]:
    """(`on` or `off`, reason); `off` if both are equal."""
    values = {mode: baseline.value for mode, baseline in uniform.items()}
    if values and max(values.values()) > max(probe.value for probe in probes.values()):
        return max(values, key=lambda mode: values[mode]), "better uniform low rank on validation"
    return max(probes, key=lambda mode: probes[mode].value), "better linear probe on validation"


def _records(
    setup: Setup, mode: str, why: str, probes: ByMode, uniform: ByMode
) -> dict[str, Recorded]:
    """Records of the decision, and baselines of both modes."""
    by_mode = [{m: one.value for m, one in compared.items()} for compared in (probes, uniform)]
    records: dict[str, Recorded] = {PREPARATION: Preparation(mode, why, *by_mode)}
    if setup.settings.references:
        other = "off" if mode == "on" else "on"
        records[f"{BASELINE}:{PROBE}"] = probes[mode]
        records[f"{BASELINE}:{PROBE} (bnstats {other})"] = probes[other]
        if uniform:
            records[f"{BASELINE}:{UNIFORM} (bnstats {other})"] = uniform[other]
            records[f"{BEGUN_BASELINE}:{UNIFORM}"] = uniform[mode]
    return records


def _probe(setup: Setup, writer: Writer, buffers: Buffers) -> Baseline:
    rates = three_rates(setup.grids, Plan(), None)
    return _trained(setup, writer, PROBE, Plan(), buffers, rates)


def _uniform(setup: Setup, writer: Writer, buffers: BuffersByMode, probes: ByMode) -> ByMode:
    """Uniform low rank in both modes, at the middle and the highest rate; empty if none fits."""
    plan = uniform_placement(setup.problem.charged(buffer_cost(buffers["on"])))
    if not plan.choices:
        return {}
    heads = {mode: probe.hyperparameters["lr:head"] for mode, probe in probes.items()}
    rates = {mode: three_rates(setup.grids, plan, head)[-2:] for mode, head in heads.items()}
    try:
        return {m: _trained(setup, writer, UNIFORM, plan, buffers[m], rates[m]) for m in buffers}
    except TrialError as error:
        warn(f"Uniform low rank could not be compared, so linear probes decide: {error}")
        return {}


def _trained(
    setup: Setup,
    writer: Writer,
    name: str,
    plan: Plan,
    buffers: Buffers,
    rates: list[dict[str, float]],
) -> Baseline:
    full_name = f"{name} with{'' if buffers else 'out'} new statistics"
    if (trained := writer.prepared_baseline(full_name)) is not None:
        return trained
    setup.engine.prepare(buffers)
    jobs = baseline_jobs(full_name, plan, rates, setup.settings.seed)
    with InlineBackend(setup.engine) as backend:
        baseline = train_baseline(full_name, jobs, backend, setup.engine.test, writer)
    baseline = replace(baseline, cost=setup.problem.cost(plan))
    writer.record(f"{PREPARING}:{full_name}", baseline)
    forget_jobs(jobs, writer)
    return baseline


def _report(mode: str, probes: ByMode, uniform: ByMode) -> None:
    name, by_mode = ("uniform low rank", uniform) if uniform else ("the linear probe", probes)
    tell(
        "preparation",
        f"Normalisation statistics {'re-estimated' if mode == 'on' else 'kept'}: {name} reaches "
        f"{by_mode['on'].value:.4f} with new ones and {by_mode['off'].value:.4f} without.",
    )


def buffer_cost(buffers: Buffers) -> Cost:
    """Cost of prepared buffers, which are stored in the delta file but not trained."""
    stored = sum(b.numel() for b in buffers.values())
    return Cost(0, stored, sum(b.numel() * b.element_size() for b in buffers.values()))
