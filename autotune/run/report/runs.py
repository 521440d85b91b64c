"""Report that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.run.report.network import best_plan_of
from autotune.run.report.provenance import provenance
from autotune.run.report.section import Report, Section
from autotune.run.report.style import PALETTE, new_figure
from autotune.run.report.wording import over_seeds
from autotune.study.selection.extra_jobs import tested_as
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy


def report_of_runs(studies: Sequence[BareStudy]) -> Report:
    """Report on the results of all runs, their plans, and their differences."""
    names = [str(study.folder.path) for study in studies]
    sections = (_results(studies, names), _plans(studies, names), _differences(studies, names))
    return Report(f"{len(studies)} runs compared", sections)


def _results(studies: Sequence[BareStudy], names: list[str]) -> Section:
    ended = [study for study in studies if study.final]
    tasks = {study.identity_value("data") for study in studies}
    text = [f"{len(ended)} of {len(studies)} searches have ended."]
    if len(tasks) > 1:
        text.append("They have different data, so their accuracies are not comparable.")
    columns = (
        "run",
        "state",
        Column("parameters", ",d"),
        Column("bytes", ",d"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "test over seeds",
        Column("cost, full fine-tunings", ".1f"),
    )
    rows = [_row(study, name) for study, name in zip(studies, names, strict=True)]
    return Section(
        "results",
        "Results",
        tuple(text),
        Table.of(columns, rows),
        partial(draw, ended) if ended else None,
        f"Metric on test of {len(ended)} runs against trained parameters.",
    )


def _row(study: BareStudy, name: str) -> tuple[Cell, ...]:
    final = study.final
    if final is None:
        return name, study.state, None, None, None, None, "", None
    unit = study.full_finetuning
    return (
        name,
        study.state,
        final.cost.parameters,
        final.cost.bytes,
        final.value,
        _test(study),
        over_seeds(final.tests),
        study.own_seconds / unit if unit else None,
    )


def _test(study: BareStudy) -> float:
    assert study.final is not None
    test = study.final.test
    return float(test[tested_as(test, study.settings.metric)])


def draw(studies: Sequence[BareStudy]) -> go.Figure:
    """Plot one point per run, with the standard deviation over seeds."""
    figure = new_figure(height=420)
    for at, study in enumerate(studies):
        assert study.final is not None
        figure.add_scatter(
            x=[study.final.cost.parameters],
            y=[_test(study)],
            error_y={"array": [study.final.tests.std if study.final.tests else 0.0]},
            mode="markers",
            cliponaxis=False,
            name=escape(str(study.folder.path)),
            marker={"size": 11, "color": PALETTE[at % len(PALETTE)]},
        )
    figure.update_xaxes(title="trained parameters", rangemode="tozero", tickformat="~s")
    figure.update_yaxes(title="on test", tickformat=".0%")
    return figure


def _plans(studies: Sequence[BareStudy], names: list[str]) -> Section:
    """Section with one row per unit, in the order of the runs' problems."""
    plans = [best_plan_of(study) for study in studies]
    units = list(dict.fromkeys(unit for study in studies for unit in study.problem.units))
    rows = []
    for unit in units:
        has = [unit in study.problem.units for study in studies]
        pairs = zip(plans, has, strict=True)
        labels = [plan[unit].label if plan and has_unit else "" for plan, has_unit in pairs]
        rows.append((unit, *labels))
    text = "A cell is empty if the run does not have the unit or has no plan yet."
    return Section("plans", "Plans", (text,), Table.of(("unit", *names), rows))


def _differences(studies: Sequence[BareStudy], names: list[str]) -> Section:
    records = [{k: str(v) for k, v in provenance(study).items()} for study in studies]
    keys = dict.fromkeys(key for one in records for key in one if key != "run folder")
    rows = [
        (key, *(one.get(key, "") for one in records))
        for key in keys
        if len({one.get(key, "") for one in records}) > 1
    ]
    return Section("differences", "Differences", table=Table.of(("what", *names), rows))
