"""Layout of the live view, for a search in this process or in another one."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.run.progress import Standing
from autotune.run.report.style import FROZEN_COLOR, colour_of_method
from autotune.run.report.wording import duration, percent, shown

MAX_RUNNING = 3
"""Running trials that are listed, so that their line fits a terminal; the others are counted."""


def view(standing: Standing, now: float) -> RenderableType:
    """Return the view: stage, time left, best plan so far, baselines and last events.

    The rows copy the mappings of `standing`: redraws run in a thread of their own, while events
    change it.
    """
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(no_wrap=True, style="dim")
    rows.add_column(ratio=1, overflow="ellipsis")
    for name, content in (
        ("now", _now(standing)),
        ("trials", _trials(standing)),
        ("best", _best(standing)),
        ("plan", _plan(standing)),
        ("vs", _baselines(standing)),
    ):
        if content:
            rows.add_row(name, content)
    head = _line(Text.assemble(("autotune ", "bold"), _about(standing)))
    return Group(head, _stages(standing), _bar(standing, now), rows, *_latest(standing))


def _line(text: Text) -> Text:
    """Cut off `text` at the width of the terminal instead of wrapping it."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _about(standing: Standing) -> str:
    begun = standing.begun
    if not begun:
        return ""
    limit = f"{begun['limit']:,} {begun['measure']}"
    return f"{begun['task']} within {begun['budget']} ({limit}) · {begun['run']}"


def _stages(standing: Standing) -> Text:
    """All stages of the search on one line, the current one highlighted."""
    if not standing.begun:
        return _line(Text(standing.stage or "", style="bold cyan"))
    order = standing.stages
    at = order.index(standing.stage) if standing.stage in order else -1
    names = ["baselines" if name == "references" else name for name in order]  # the stored name
    parts = [(name, "bold cyan" if i == at else "dim") for i, name in enumerate(names)]
    text = Text(" › ", style="dim").join(Text(name, style=style) for name, style in parts)
    return _line(text)


def _bar(standing: Standing, now: float) -> RenderableType:
    work = standing.work()
    took = duration(max(now - standing.since, 0.0)) if standing.since else ""
    if work is None:
        return _line(Text(f"{took} so far" if took else "Loading"))
    done, left = work
    share, remaining = done / (done + left), standing.left(now)
    text = f"{percent(share, 0)} · {took}"
    text += "" if remaining is None else f", about {duration(remaining)} left"
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=1.0, completed=share, complete_style="cyan", finished_style="cyan")
    line.add_row(bar, text)
    return line


def _now(standing: Standing) -> Text:
    return _line(Text(standing.message))


def _trials(standing: Standing) -> Text | None:
    if not standing.states and not standing.running:
        return None
    total = f" of {standing.total:,}" if standing.total else ""
    states = ", ".join(f"{n:,} {state}" for state, n in list(standing.states.items()))
    text = f"{standing.ended:,}{total}{': ' if states else ''}{states}"
    for number, (step, steps, value) in list(standing.running.items())[:MAX_RUNNING]:
        reached = f" ({step} of {steps} done, {percent(value)})" if step else ""
        text += f" · trial {number} running{reached}"
    if more := max(len(standing.running) - MAX_RUNNING, 0):
        text += f" · {more} more running"
    return _line(Text(text))


def _best(standing: Standing) -> Text | None:
    best = standing.best
    if not best:
        return None
    text = f" on validation · trial {best['number']} · {best['cost']:,} parameters"
    if standing.begun.get("measure") == "parameters":
        text += f", {percent(best['cost'] / max(standing.begun['room'], 1), 0)} of the budget"
    return _line(Text.assemble(Text(percent(best["value"]), style="bold"), text))


def _plan(standing: Standing) -> Text | None:
    """One block per unit in depth order, in the colour of its method, followed by a legend."""
    if not standing.best or "units" not in standing.begun:
        return None
    chosen = standing.best.get("labels", {})
    methods = {unit: last_method(label) for unit, label in chosen.items()}
    strip = Text(overflow="fold")
    for unit in standing.begun["units"]:
        method = methods.get(unit)
        strip.append(
            "█" if method else "░", style=colour_of_method(method) if method else FROZEN_COLOR
        )
    for method in dict.fromkeys(methods.values()):
        strip.append(f"  ■ {method}", style=colour_of_method(method))
    return strip


def last_method(label: str) -> str:
    """Return the name of the last method in a label: `lowrank` for `subtune-norms+lowrank-2`."""
    return label.rpartition("+")[2].partition("-")[0]


def _baselines(standing: Standing) -> Text | None:
    values = list(standing.baselines.items())
    texts = [f"{shown(name)} {percent(value)}" for name, value in values]
    return _line(Text(" · ".join(texts))) if texts else None


def _latest(standing: Standing) -> list[Text]:
    """Last events with their time of day; warnings are yellow."""
    lines: list[Text] = []
    for event in list(standing.latest):
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        style: Any = "yellow" if event.kind == "warning" else "dim"
        lines.append(_line(Text(f"{clock} {event.text}", style=style)))
    return lines
