"""Tables of searches: the answer beside its references, fronts, comparisons, where a run stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from autotune.cli.console import console
from autotune.run.report.wording import shown, taken
from autotune.utils.timings import STAGES

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.study.selection.unit_profiles import ProfileRow


def print_result(status: dict[str, Any]) -> None:
    """The answer of a search beside its references, and what to type next."""
    out, final = console(), status["final"]
    out.print(_result_table(status))
    if final["empty"] and final["number"] is None:
        out.print("No plan beats the linear probe on validation: nothing but the head is trained.")
    else:
        out.print(f"Plan: {final['label']}", soft_wrap=True, markup=False)
        if said := taken(final):
            out.print(said, soft_wrap=True)
        _print_spread(out, final)
    if status["policy"]:
        _print_policy(out, status["policy"])
    if status["front"]:
        _print_front(out, status["front"])
    _print_cost(out, status)
    run = status["run"]
    for line in (
        f"autotune report {run}                         # the same as a page with pictures",
        f"autotune evaluate {run}                       # the same test again, in a new process",
        f"autotune export {run} --format mask -o mask.json",
        f"autotune predict {run} PICTURE",
    ):
        out.print("  " + line, soft_wrap=True, markup=False)


def _result_table(status: dict[str, Any]) -> Table:
    budget, final = status["budget"], status["final"]
    unit = "parameters" if budget["measure"] == "parameters" else "bytes"
    table = Table(
        title=f"Budget {budget['text']}: {budget['limit']:,} of {budget['total']:,} {unit}"
    )
    for name in ("method", f"cost ({unit})", "% of budget", "validation", "test", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    metric = status["test"]["metric"] if status["test"] else "accuracy"
    for name, found in status["references"].items():
        table.add_row(*_row(shown(name), found, budget, metric, found["seconds"]))
    table.add_section()
    chosen = "empty plan" if final["empty"] else f"autotune (trial {final['number']})"
    table.add_row(*_row(chosen, final, budget, metric, status["seconds"]), style="bold")
    return table


def _row(
    name: str, found: dict[str, Any], budget: dict[str, Any], metric: str, seconds: float
) -> list[str]:
    cost = found["cost"][budget["measure"]]
    over = "" if found.get("fits", True) else " (over)"
    return [
        name,
        f"{cost:,}{over}",
        f"{100 * cost / budget['limit']:.1f}",
        f"{found['value']:.4f}",
        f"{found['test'][metric]:.4f}",
        f"{seconds:.1f}",
    ]


def _print_spread(out: Console, final: dict[str, Any]) -> None:
    values, tests = final["values"], final["tests"]
    n = len(values["seeds"])
    out.print(
        f"Over {n} seeds: validation {values['mean']:.4f} ± {values['std']:.4f}, "
        f"test {tests['mean']:.4f} ± {tests['std']:.4f}."
    )
    for rival in final.get("against", ()):
        _print_against(out, final, rival)


def _print_against(out: Console, final: dict[str, Any], rival: dict[str, Any]) -> None:
    """What the plan's parameters bought over a cheaper one, and which of them is recommended."""
    more = final["cost"]["parameters"] - rival["cost"]["parameters"]
    if more <= 0:
        return
    name = shown(rival["name"])
    verdict = ""
    if rival["pairs"] < 3:
        verdict = ": too few to tell them apart"
    elif not rival["distinguishable"]:
        verdict = f": not distinguishable, and {name} is the cheaper"
    out.print(
        f"{more:,} parameters more than {name} bought {_gain(rival)} on validation "
        f"(95 %, {rival['pairs']} pairs){verdict}.",
        soft_wrap=True,
    )


def _print_cost(out: Console, status: dict[str, Any]) -> None:
    states = ", ".join(f"{n} {state}" for state, n in status["trials"].items())
    repeats = f" {status['repeats']} answered from the record." if status["repeats"] else ""
    out.print(f"Trials: {states}.{repeats}")
    full = status["full_finetuning_seconds"]
    if full:
        beside = status["seconds"] - status["own_seconds"]
        control = f", {beside:.0f} s of it for random placement" if beside else ""
        share = status["own_seconds"] / full
        rest = "the rest" if control else "it"
        out.print(
            f"The search took {status['seconds']:.0f} s{control}; {rest} is {share:.1f} × one full "
            f"fine-tuning (about {full:.0f} s, from timed steps).",
            soft_wrap=True,
        )


def _print_policy(out: Console, found: dict[str, Any]) -> None:
    """How the policy came to its plan, and whether it did more than repeat its proxies."""
    told = [f"{found['rounds']} rounds in {found['seconds']:.0f} s"]
    told.append("plan stable" if found["stable"] else "plan still changing")
    if found["same_as_proxies"]:
        told.append("the same as by proxies alone")
    told.append(f"probabilities moved by up to {found['moved']:.2f}")
    if found["agreement"] is not None:
        told.append(f"proxies of two halves agree to {found['agreement']:.2f}")
    if found["left_out"]:
        told.append(f"left to the trials: {', '.join(found['left_out'])}")
    out.print(f"Policy: {', '.join(told)}.", markup=False)


def print_comparison(found: dict[str, Any]) -> None:
    """An answer and its rivals over the same seeds, and which of them is recommended."""
    out, table = console(), Table(box=SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for name in ("parameters", "stored", "validation, %", "test, %", "autotune gains"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in found["rows"]:
        over = "" if row["fits"] else " (over)"
        table.add_row(
            Text(shown(row["name"])),
            f"{row['cost']['parameters']:,}{over}",
            decimal(row["cost"]["bytes"], separator=""),
            _mean_and_std(row["validation"]),
            _mean_and_std(row["test"]),
            *_verdict(row.get("autotune_gains")),
            style="bold" if row["name"] == found["recommended"] else None,
        )
    out.print(table)
    out.print(
        f"Over {found['rows'][0]['seeds']} seeds. Gains are paired, in points on validation, with "
        "their 95 % intervals; ≈ is not distinguishable. Recommended: "
        f"{shown(found['recommended'])}, the cheapest within the budget "
        "that cannot be told apart from the best.",
        soft_wrap=True,
    )
    if full := found["full_finetuning_seconds"]:
        share = found["search_seconds"] / full
        out.print(f"The search took {share:.1f} × one full fine-tuning ({full:.1f} s as measured).")
    if source := found["source"]:
        out.print(
            f"{source['task']} with the backbone's own head: {source['off']:.4f} with the delta "
            f"off, {source['on']:.4f} with it on ({source['n']:,} test examples).",
            markup=False,
            soft_wrap=True,
        )


def _mean_and_std(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f}"


def _gain(found: dict[str, Any]) -> str:
    half = "" if found["half"] is None else f" ± {found['half']:.4f}"
    return f"{found['mean']:+.4f}{half}"


def _verdict(found: dict[str, Any] | None) -> tuple[str, str]:
    """By how much the search's answer is better, and whether that can be said."""
    if found is None:
        return "", ""
    half = "" if found["half"] is None else f" ± {100 * found['half']:.1f}"
    gain = f"{100 * found['mean']:+.1f}{half}"
    if not found["distinguishable"]:
        return gain, "≈"
    return gain, "better" if found["mean"] > 0 else "worse"


def print_budgets(statuses: dict[str, dict[str, Any]]) -> None:
    """How much is needed: the answer for each budget, the largest first."""
    out, table = console(), Table(box=SIMPLE_HEAD)
    for name in ("budget", "parameters", "validation", "test"):
        table.add_column(name, justify="right")
    table.add_column("plan", overflow="fold")
    for budget, status in statuses.items():
        final = status["final"]
        table.add_row(
            budget,
            f"{final['cost']['parameters']:,}",
            _over_seeds(final, "values", final["value"]),
            _over_seeds(final, "tests", status["test"]["value"]),
            Text(final["label"]),
        )
    out.print(table)
    for status in statuses.values():
        out.print(f"  autotune status {status['run']}", soft_wrap=True)


def print_timings(status: dict[str, Any]) -> None:
    """Where the seconds of all sittings went."""
    out, table = console(), Table(box=SIMPLE_HEAD, title="Where the seconds went")
    table.add_column("stage")
    table.add_column("what", overflow="fold")
    for name in ("seconds", "%"):
        table.add_column(name, justify="right")
    found = status["timings"]
    for stage in (*STAGES, "other"):
        if stage in found:
            share = 100 * found[stage] / status["seconds"]
            table.add_row(stage, STAGES.get(stage, ""), f"{found[stage]:.1f}", f"{share:.1f}")
    out.print(table)


def _over_seeds(final: dict[str, Any], name: str, value: float) -> str:
    found = final.get(name)
    return f"{found['mean']:.4f} ± {found['std']:.4f}" if found else f"{value:.4f}"


def _print_front(out: Console, front: list[dict[str, Any]]) -> None:
    """What each further parameter bought, on validation."""
    table, shown = (
        Table(box=SIMPLE_HEAD),
        [name for name in MEASURED if name in front[0]["metrics"]],
    )
    for name in ("trial", "parameters", *shown, "validation"):
        table.add_column(MEASURED.get(name, name), justify="right")
    table.add_column("plan", overflow="fold")
    for point in front:
        measured = [_measured(name, point["metrics"][name]) for name in shown]
        numbers = str(point["number"]), f"{point['cost']['parameters']:,}", *measured
        table.add_row(*numbers, f"{point['value']:.4f}", Text(point["label"]))
    out.print("The front:")
    out.print(table)


MEASURED = {"latency": "inference ÷ backbone's", "memory": "memory of a step"}


def _measured(name: str, value: float) -> str:
    return decimal(int(value)) if name == "memory" else f"{value:.2f}"


def print_status(status: dict[str, Any]) -> None:
    """Where a run stands."""
    out = console()
    states = ", ".join(f"{n} {state}" for state, n in status["trials"].items()) or "no trials yet"
    of = f" of {status['asked']}" if status["asked"] else ""
    out.print(f"{status['run']}: {status['state']}, {states}{of} trials")
    if status["front"]:
        _print_front(out, status["front"])
    if status["final"]:
        out.print(_result_table(status))
        return
    if best := status["best"]:
        out.print(
            f"Best so far: trial {best['number']}, validation {best['value']:.4f}", markup=False
        )
        out.print(f"Plan: {best['label']}", markup=False, soft_wrap=True)
    if status["policy"]:
        _print_policy(out, status["policy"])
    if status["state"] == "interrupted":
        out.print(f"Go on with: {status['resume']}")


def print_profile(rows: list[ProfileRow], folder: Path) -> None:
    """Each unit alone: the metric on validation, and what it trains."""
    out, empty = console(), next((row for row in rows if not row.unit), None)
    table = Table(box=SIMPLE_HEAD)
    for name, justify in (("unit", "left"), ("choice", "left"), ("parameters", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("validation", "over the head alone"):
        table.add_column(name, justify="right")
    for row in rows:
        gain = f"{row.mean - empty.mean:+.4f}" if empty and row.unit else ""
        value = f"{row.mean:.4f} ± {row.std:.4f}" if len(row.values) > 1 else f"{row.mean:.4f}"
        name = row.unit or "(the head alone)"
        table.add_row(name, row.choice, f"{row.parameters:,}", value, gain)
    out.print(table)
    out.print(f"  {folder}/profile.html                # the same as a picture", soft_wrap=True)
    out.print(
        f"  autotune search --profile {folder}   # begin with what was learned", soft_wrap=True
    )
