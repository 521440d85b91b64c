"""The answer first: what was chosen, what it costs, what it reaches, beside its references."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from scipy.special import ndtri

from autotune.run.report.section import Section
from autotune.run.report.wording import count, over_seeds, percent, shown, taken
from autotune.study.selection.extra_jobs import tested_as
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """One sentence, and one table with the answer in its last row."""
    sentence = _reached(study) if study.final else _not_yet(study)
    return Section("answer", "The answer", (sentence, *_remarks(study)), _table(study))


def answer_html(study: BareStudy) -> str:
    """For a notebook: the sentence and the table."""
    told = section(study)
    table = told.table.to_html() if told.table else ""
    return f"<p>{escape(told.text[0])}</p>{table}"


def _reached(study: BareStudy) -> str:
    final, budget = study.final, study.problem.budget
    assert final is not None
    metric = tested_as(final["test"], study.settings.metric)
    reached = f"{percent(final['test'][metric])} {metric} on "
    reached += count(final["test"]["n"], "test example")
    if metric == "accuracy":
        low, high = interval(final["test"]["accuracy"], final["test"]["n"])
        reached += f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    if final["empty"]:
        what = f"leaves the whole backbone frozen, as {_why_empty(study)},"
    else:
        cost = final["cost"][budget.measure.value] + study.problem.fixed[budget.measure]
        share, whole = cost / budget.limit, cost / budget.total
        what = (
            f"changes {len(study.best.plan)} of {len(study.problem.units)} units and spans at "
            f"{cost:,} {budget.measure.value} ({percent(share)} of the budget, "
            f"{percent(whole, 2)} of the backbone)"
        )
    return f"The best configuration found {what} and reaches {reached}{_beside(study, metric)}."


def _why_empty(study: BareStudy) -> str:
    assert study.final is not None
    if study.final["number"] is not None:
        return "the best trial changes nothing"
    if any(trial.is_complete for trial in study.trials):
        return "no plan beats a linear probe on validation"
    return "no trial was completed"


def _beside(study: BareStudy, metric: str) -> str:
    """The cheapest reference's result, for the same sentence."""
    probe = study.baselines.get("probe")
    if probe is None:
        return ""
    reached = probe["test"][tested_as(probe["test"], metric)]
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


def _remarks(study: BareStudy) -> list[str]:
    """How sure it is."""
    final = study.final
    if final is None or "values" not in final:
        return []
    seeds = len(final["values"]["seeds"])
    told = [taken(final)] if taken(final) else []
    told += [
        f"Over {count(seeds, 'seed')}: {over_seeds(final['values'])} on validation, "
        f"{over_seeds(final['tests'])} on test."
    ]
    return told + [_against(rival) for rival in final.get("against", ())]


def _against(rival: Mapping[str, Any]) -> str:
    half = "" if rival["half"] is None else f" ± {100 * rival['half']:.1f}"
    apart = "distinguishable" if rival["distinguishable"] else "not distinguishable"
    apart = "too few to tell them apart" if rival["pairs"] < 3 else apart
    return (
        f"Against {shown(rival['name'])}: {100 * rival['mean']:+.1f}{half} points on validation "
        f"(95 %, {count(rival['pairs'], 'pair')}): {apart}."
    )


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy on n examples."""
    z = float(ndtri(0.975))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return middle - half, middle + half


def _table(study: BareStudy) -> Table | None:
    rows = [_row(shown(name), found, study) for name, found in study.baselines.items()]
    if study.final:
        name = "empty plan" if study.final["empty"] else f"autotune (trial {study.final['number']})"
        rows.append(_row(name, study.final, study))
    if not rows:
        return None
    columns = (
        "method",
        Column(study.problem.budget.measure.value, ",d"),
        Column("of budget", ".1%"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "over seeds",
        "fits",
    )
    return Table.of(columns, rows, marked=len(rows) - 1 if study.final else None)


def _row(name: str, found: Mapping[str, Any], study: BareStudy) -> tuple[Cell, ...]:
    budget, test = study.problem.budget, found["test"]
    cost = found["cost"][budget.measure.value] + study.problem.fixed[budget.measure]
    return (
        name,
        cost,
        cost / budget.limit,
        found["value"],
        test[tested_as(test, study.settings.metric)],
        over_seeds(found.get("tests")),
        "yes" if found.get("fits", True) else "no",
    )
