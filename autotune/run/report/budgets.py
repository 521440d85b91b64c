"""Section on a search with several budgets: the answer within each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.study.selection.extra_jobs import tested_as
from autotune.utils.table import Cell, Column, Spread, Table

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


def section(studies: Mapping[str, BareStudy]) -> Section:
    """Table with one row per budget, and the commands that show their searches."""
    columns = (
        "budget",
        Column("parameters", ",d"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "plan",
    )
    rows = [_row(budget, study) for budget, study in studies.items()]
    commands = [(f"The search within {b}", s.command("status")) for b, s in studies.items()]
    return Section(
        "budgets",
        "The answer within each budget",
        table=Table.of(columns, rows),
        commands=tuple(commands),
    )


def _row(budget: str, study: BareStudy) -> tuple[Cell, ...]:
    final = study.final
    assert final is not None
    tested = final.test[tested_as(final.test, study.settings.metric)]
    value, test = (
        single if by_seed is None else Spread(by_seed.mean, by_seed.std)
        for by_seed, single in ((final.values, final.value), (final.tests, tested))
    )
    return budget, final.cost.parameters, value, test, str(final.plan)
