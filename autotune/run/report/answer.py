"""Section on the answer: its plan, cost and metrics, compared with the baselines."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.wording import count, over_seeds, percent, shown, taken
from autotune.study.paired import FEWEST_PAIRS
from autotune.study.selection.extra_jobs import tested_as
from autotune.study.stages import Against, Baseline, Final
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """The answer with its uncertainty, and a table of the baselines with the answer last."""
    sentence = _reached(study) if study.final else _not_yet(study)
    text = (sentence, _allowed(study), *_remarks(study))
    return Section("answer", "The answer", text, _table(study))


def _allowed(study: BareStudy) -> str:
    budget = study.problem.budget
    return (
        f"The budget of {budget.text} allows {budget.limit:,} of the backbone's "
        f"{budget.total:,} {budget.measure.value}."
    )


def _reached(study: BareStudy) -> str:
    final, budget = study.final, study.problem.budget
    assert final is not None
    metric = tested_as(final.test, study.settings.metric)
    reached = f"{percent(final.test[metric])} {metric} on "
    reached += count(int(final.test["n"]), "test example")
    if metric == "accuracy":
        low, high = interval(final.test["accuracy"], int(final.test["n"]))
        reached += f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    if final.is_empty:
        what = f"leaves the whole backbone frozen, as {_why_empty(study)},"
    else:
        cost = final.cost[budget.measure] + study.problem.fixed[budget.measure]
        share, whole = cost / budget.limit, cost / budget.total
        what = (
            f"changes {len(study.best.plan)} of {len(study.problem.units)} units and spans at "
            f"{cost:,} {budget.measure.value} ({percent(share)} of the budget, "
            f"{percent(whole, 2)} of the backbone)"
        )
    return f"The best configuration found {what} and reaches {reached}{_probe(study, metric)}."


def _why_empty(study: BareStudy) -> str:
    assert study.final is not None
    if study.final.number is not None:
        return "the best trial changes nothing"
    if any(trial.is_complete for trial in study.trials):
        return "no plan beats a linear probe on validation"
    return "no trial was completed"


def _probe(study: BareStudy, metric: str) -> str:
    """Result of the linear probe, the cheapest baseline, as a clause of the same sentence."""
    probe = study.baselines.get("probe")
    if probe is None:
        return ""
    reached = probe.test[tested_as(probe.test, metric)]
    return f"; a linear probe reaches {percent(reached)}"


def _not_yet(study: BareStudy) -> str:
    done = [trial for trial in study.trials if trial.is_complete]
    if not done:
        return (
            f"There is no answer yet: the search is {study.state} and none of its "
            f"{count(len(study.trials), 'trial')} was completed."
        )
    best = study.leader
    assert best is not None
    return (
        f"There is no answer yet: the search is {study.state}. The best of "
        f"{count(len(done), 'complete trial')} reaches {percent(best.value or 0.0)} "
        f"{study.settings.metric} on "
        f"validation with {best.cost.parameters:,} parameters (trial {best.number}: {best.plan})."
    )


def _remarks(study: BareStudy) -> Iterator[str]:
    """Sentences with the plan and the evidence for it."""
    final = study.final
    if final is None:
        return
    if not final.is_empty:
        yield f"Plan: {final.plan}"
    if final.values is None or final.tests is None:
        return
    if remark := taken(final):
        yield remark
    yield (
        f"Over {count(len(final.values.by_seed), 'seed')}: {over_seeds(final.values)} on "
        f"validation, {over_seeds(final.tests)} on test."
    )
    for other in final.against:
        yield _against(final, other)


def _against(final: Final, other: Against) -> str:
    """Paired gain over another plan, and the additional parameters it takes."""
    name, gain = shown(other.name), other.difference
    more = final.cost.parameters - other.cost.parameters
    subject = f"{more:,} parameters more than {name} bought" if more > 0 else f"Against {name}:"
    half = f" ± {100 * gain.half:.1f}" if gain.pairs > 1 else ""
    points = f"{100 * gain.mean:+.1f}{half} points"
    verdict = "distinguishable" if gain.is_distinguishable else "not distinguishable"
    if gain.pairs < FEWEST_PAIRS:
        verdict = "too few to tell them apart"
    elif not gain.is_distinguishable and more > 0:
        verdict += f", and {name} is the cheaper"
    evidence = f"(95 %, {count(gain.pairs, 'pair')})"
    return f"{subject} {points} on validation {evidence}: {verdict}."


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson score interval (95 %) of an accuracy `share` on `n` examples."""
    z = NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return middle - half, middle + half


def _table(study: BareStudy) -> Table | None:
    baselines = study.baselines.items()
    rows = [_row(shown(name), run, study, run.seconds) for name, run in baselines]
    if study.final:
        name = "empty plan" if study.final.is_empty else f"autotune (trial {study.final.number})"
        rows.append(_row(name, study.final, study, study.seconds))
    if not rows:
        return None
    columns = (
        "method",
        Column(study.problem.budget.measure.value, ",d"),
        Column("of budget", ".1%"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "over seeds",
        Column("seconds", ".1f"),
        "fits",
    )
    return Table.of(columns, rows, marked=len(rows) - 1 if study.final else None)


def _row(name: str, run: Baseline | Final, study: BareStudy, seconds: float) -> tuple[Cell, ...]:
    budget, test = study.problem.budget, run.test
    cost = run.cost[budget.measure] + study.problem.fixed[budget.measure]
    return (
        name,
        cost,
        cost / budget.limit,
        run.value,
        test[tested_as(test, study.settings.metric)],
        over_seeds(run.tests) if isinstance(run, Final) else "",
        seconds,
        "yes" if isinstance(run, Final) or run.fits else "no",
    )
