"""Whether normalisation statistics are re-estimated: settled once, before the first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from autotune.errors import ConfigError, TrialError
from autotune.problem.budget import Cost
from autotune.problem.plan import Plan
from autotune.problem.recipes import uniform_placement
from autotune.session.setup import Setup, head_cost
from autotune.study.backends.inline import InlineBackend
from autotune.study.selection.baselines import BEGUN, PROBE, UNIFORM, run_baseline, three_rates
from autotune.training.batchnorm import has_statistics
from autotune.utils.events import tell, warn
from autotune.utils.timings import spent

Buffers = Mapping[str, torch.Tensor]
BuffersByMode = Mapping[str, Buffers]
"""`off` and `on` → the buffers that the backbone has then; none of them means as it was loaded."""


def settle_preparation(setup: Setup) -> tuple[Buffers, dict[str, Any]]:
    """The prepared buffers (none of them: off), and what to record of it.

    `auto` compares uniform low rank on validation, with re-estimated statistics and without, each
    at the better of two learning rates: a linear probe gains by new statistics what tuned layers
    may gain better by themselves. Where there is no low rank, or it learns nothing, it compares
    linear probes. Those of the other way are references beside the study's own.
    """
    asked, engine = setup.settings.bnstats, setup.engine
    if not has_statistics(setup.backbone.network):
        if asked == "on":
            raise ConfigError(
                "--bnstats on needs normalisation statistics, this backbone has none. Use auto."
            )
        return {}, {"stage:preparation": {"bnstats": "off", "why": "no statistics to estimate"}}
    tell("stage", "Preparation", stage="preparation")
    with spent("prefix"):
        ways: BuffersByMode = {"off": {}, "on": engine.statistics()}
    if asked != "auto" and not setup.settings.references:
        return ways[asked], {"stage:preparation": {"bnstats": asked, "why": "as asked"}}
    probes = {way: _probe(setup, buffers) for way, buffers in ways.items()}
    uniform = _uniform(setup, ways, probes) if asked == "auto" else {}
    way, why = _chosen(probes, uniform) if asked == "auto" else (asked, "as asked")
    _say(way, probes, uniform)
    return ways[way], _recorded(setup, way, why, probes, uniform)


def _chosen(probes: Mapping[str, Any], uniform: Mapping[str, Any]) -> tuple[str, str]:
    """`on` or `off`, and why; of two equal ones the backbone as it was loaded."""
    values = {way: found["value"] for way, found in uniform.items()}
    if values and max(values.values()) > max(probe["value"] for probe in probes.values()):
        return max(values, key=lambda way: values[way]), "better uniform low rank on validation"
    found = max(probes, key=lambda way: float(probes[way]["value"]))
    return found, "better linear probe on validation"


def _recorded(
    setup: Setup, way: str, why: str, probes: Mapping[str, Any], uniform: Mapping[str, Any]
) -> dict[str, Any]:
    """What the study knows of it, and those of the other way as references."""
    told = {
        name: {w: found[w]["value"] for w in found}
        for name, found in (("probe", probes), ("uniform", uniform))
        if found
    }
    stages: dict[str, Any] = {"stage:preparation": {"bnstats": way, "why": why, **told}}
    if setup.settings.references:
        other = "off" if way == "on" else "on"
        stages[f"reference:{PROBE}"] = probes[way]
        stages[f"reference:{PROBE} (bnstats {other})"] = probes[other]
        if uniform:
            stages[f"reference:{UNIFORM} (bnstats {other})"] = uniform[other]
            stages[BEGUN.format(UNIFORM)] = uniform[way]
    return stages


def _probe(setup: Setup, buffers: Buffers) -> dict[str, Any]:
    return _tried(setup, PROBE, Plan(), buffers, three_rates(setup.grids, Plan(), None))


def _uniform(setup: Setup, ways: BuffersByMode, probes: Mapping[str, Any]) -> dict[str, Any]:
    """Uniform low rank with each, at the middle and the highest rate; nothing where none fits."""
    fixed = head_cost(setup.settings, setup.backbone, len(setup.task.classes))
    plan = uniform_placement(setup.problem(fixed + buffer_cost(ways["on"])))
    if not plan.choices:
        return {}
    heads = {way: probe["hyperparameters"]["lr:head"] for way, probe in probes.items()}
    rates = {way: three_rates(setup.grids, plan, head)[-2:] for way, head in heads.items()}
    try:
        return {w: _tried(setup, UNIFORM, plan, ways[w], rates[w]) for w in ways}
    except TrialError as error:
        warn(f"Uniform low rank could not be compared, so linear probes decide: {error}")
        return {}


def _tried(
    setup: Setup, name: str, plan: Plan, buffers: Buffers, rates: list[dict[str, float]]
) -> dict[str, Any]:
    setup.engine.prepare(buffers)
    said = f"{name} with{'' if buffers else 'out'} new statistics"
    with InlineBackend(setup.engine) as backend:
        found = run_baseline(said, plan, rates, setup.settings.seed, backend, setup.engine.test)
    return {**found, "cost": asdict(setup.problem().cost(plan))}


def _say(way: str, probes: Mapping[str, Any], uniform: Mapping[str, Any]) -> None:
    name, found = ("uniform low rank", uniform) if uniform else ("the linear probe", probes)
    values = {each: f"{one['value']:.4f}" for each, one in found.items()}
    tell(
        "preparation",
        f"Normalisation statistics {'re-estimated' if way == 'on' else 'kept'}: {name} reaches "
        f"{values['on']} with new ones and {values['off']} without.",
    )


def buffer_cost(buffers: Buffers) -> Cost:
    """Prepared buffers are stored in the delta file, but nothing trains them."""
    stored = sum(b.numel() for b in buffers.values())
    return Cost(0, stored, sum(b.numel() * b.element_size() for b in buffers.values()))
