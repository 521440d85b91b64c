"""Sections on a dry run: units with their choices, data, baselines and estimated time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autotune.backbones.left_out import UNUSED
from autotune.run.report.section import Section
from autotune.run.report.wording import count, duration, shown
from autotune.utils.table import Column, Table

if TYPE_CHECKING:
    from autotune.problem.budget import Measure
    from autotune.run.preview import BarePreview, PricedChoice, UnitsPreview


def sections(preview: BarePreview) -> list[Section]:
    """Sections on units, data, baselines and the time that a search takes at most."""
    return [*units_sections(preview), _data(preview), _baselines(preview), _time(preview)]


def units_sections(preview: UnitsPreview) -> list[Section]:
    """Sections on the units with their choices, and on what the space's patterns matched."""
    budget, name = preview.budget, preview.budget.measure.value
    rows = [
        (
            unit.name,
            unit.parameters,
            ", ".join(_shortened([c for c in unit.choices if c.fits], budget.measure)),
            ", ".join(_shortened([c for c in unit.choices if not c.fits], budget.measure)),
        )
        for unit in preview.units
    ]
    parameters = Column("parameters", ",d")
    text = (
        f"{preview.backbone}: {preview.total:,} parameters without its head{_totals(preview)}. "
        f"Budget {budget.text} "
        f"= {budget.limit:,} {name}. Space: {preview.space}, {preview.granularity}s."
    )
    columns = ("unit", parameters, f"choices that fit, with their {name}", "too large")
    numbers = (Column("units", ",d"), Column("modules", ",d"), parameters)
    matches = [(m.pattern, m.expression, m.units, m.modules, m.parameters) for m in preview.matches]
    return [
        Section("units", "Units", (text,), Table.of(columns, rows)),
        *_left_out(preview),
        Section(
            "matches",
            "What matched",
            table=Table.of(("pattern", "expression", *numbers), matches),
        ),
    ]


def _totals(preview: UnitsPreview) -> str:
    """Counts of protected parameters, and of unused ones, which are not part of the total."""
    unused = sum(part.parameters for part in preview.left_out if part.reason == UNUSED)
    protected = sum(part.parameters for part in preview.left_out if part.reason != UNUSED)
    never = f", {protected:,} of which never change" if protected else ""
    return f"{never}, and {unused:,} that it does not use" if unused else never


def _left_out(preview: UnitsPreview) -> list[Section]:
    """Section on what is never offered, if there is anything."""
    rows = [(part.name, part.parameters, part.reason) for part in preview.left_out]
    columns = ("left out", Column("parameters", ",d"), "because it is")
    return [Section("left-out", "Left out", table=Table.of(columns, rows))] if rows else []


def _shortened(choices: Sequence[PricedChoice], measure: Measure) -> Iterator[str]:
    """Labels with their costs; labels that differ only in the last number become one range."""
    families: dict[str, list[PricedChoice]] = {}
    for choice in choices:
        families.setdefault(_LAST_NUMBER.sub("#", choice.label), []).append(choice)
    for pattern, similar in families.items():
        similar.sort(key=lambda choice: choice.cost[measure])
        numbers = [_LAST_NUMBER.findall(c.label)[0] for c in similar if "#" in pattern]
        label = pattern.replace("#", "/".join(numbers))
        ends = similar[:1] if len(similar) == 1 else [similar[0], similar[-1]]
        yield f"{label} {'…'.join(f'{c.cost[measure]:,}' for c in ends)}"


_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


def _data(preview: BarePreview) -> Section:
    parts = preview.parts
    text = (
        f"{preview.task} has {count(preview.classes, 'class', 'classes')}, {parts['train']:,} "
        f"training, {parts['val']:,} validation and {parts['test']:,} test examples."
    )
    return Section("data", "Data", (text,))


def _baselines(preview: BarePreview) -> Section:
    columns = ("method", Column("parameters", ",d"), Column("bytes", ",d"), "plan")
    rows = [
        (shown(name), baseline.cost.parameters, baseline.cost.bytes, str(baseline.plan))
        for name, baseline in preview.baselines.items()
    ]
    return Section("baselines", "Baselines", table=Table.of(columns, rows))


def _time(preview: BarePreview) -> Section:
    most = preview.at_most
    search = (
        "the search ends when its strategy has nothing left to try"
        if most is None
        else f"the search at most about {duration(most)}, less what pruning saves"
    )
    text = (
        f"One full fine-tuning takes about {duration(preview.full_finetuning)} here; {search}.",
        f"Memory so far: {preview.memory / 2**20:.0f} MiB.",
        "Nothing was written.",
    )
    return Section("cost", "Time and memory", text)
