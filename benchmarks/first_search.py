"""The README's search and its baselines on the four digits shifts, over several seeds.

Writes a table and the README's figure. It needs only the digits that ship with scikit-learn, and
takes about one minute per search on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from results import spread, table, write_section

import autotune

SHIFTS = ("inverted", "noise", "contrast", "rotated")
ROWS = {
    "linear probe": "probe",
    "uniform low rank": "uniform",
    "random placement": "random",
    "autotune": "",
}
FIGURE = Path(__file__).parent.parent / "docs" / "first_search.svg"


def searched(shift: str, seed: int, folder: str) -> dict[str, Any]:
    out = f"{folder}/{shift}-{seed}"
    return autotune.search(task=f"builtin:digits-{shift}", seed=seed, out=out).status()


def accuracies(status: dict[str, Any]) -> dict[str, float]:
    baselines = {row: status["references"].get(name) for row, name in ROWS.items()}
    tests = {row: one["test"]["accuracy"] for row, one in baselines.items() if one}
    return {**tests, "autotune": status["test"]["accuracy"]}


def rows_of(shift: str, statuses: list[dict[str, Any]]) -> list[list[str]]:
    tests = [accuracies(status) for status in statuses]
    costs = {
        row: [s["references"][name]["cost"]["parameters"] for s in statuses]
        for row, name in ROWS.items()
        if name
    }
    costs["autotune"] = [s["best"]["cost"]["parameters"] for s in statuses]
    share = [s["seconds"] / s["full_finetuning_seconds"] for s in statuses]
    return [
        [
            f"{shift}: {row}",
            spread([test[row] for test in tests]),
            f"{mean(costs[row]):,.0f}",
            spread(share, scale=1) if row == "autotune" else "",
        ]
        for row in ROWS
    ]


def units_chosen(statuses: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Number of runs that chose each unit, one row per shift."""
    units = ["stem", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1))]
    return [
        [shift, *(str(sum(u in s["best"]["plan"]["units"] for s in runs)) for u in units)]
        for shift, runs in statuses.items()
    ]


def draw(statuses: dict[str, list[dict[str, Any]]]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    colours = ["#9aa5b1", "#6baed6", "#74c476", "#d94801"]
    for at, (row, colour) in enumerate(zip(ROWS, colours, strict=True)):
        values = [[100 * accuracies(s)[row] for s in runs] for runs in statuses.values()]
        places = [i + (at - 1.5) * 0.2 for i in range(len(values))]
        errors = [stdev(v) if len(v) > 1 else 0 for v in values]
        axis.bar(
            places, [mean(v) for v in values], 0.19, yerr=errors, color=colour, label=row, capsize=2
        )
    axis.set_xticks(range(len(statuses)), list(statuses))
    axis.set(ylim=(40, 100), ylabel="test accuracy, %")
    axis.set_title("Digits under four shifts, at most 1 % of the parameters trained", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(ncols=4, loc="outside lower center", frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shifts", nargs="+", default=SHIFTS)
    arguments = parser.parse_args()
    statuses: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory() as folder:
        for shift in arguments.shifts:
            statuses[shift] = [searched(shift, seed, folder) for seed in range(arguments.seeds)]
    header = [
        "task: method",
        "test accuracy, %",
        "parameters",
        "search with baselines ÷ one full fine-tuning",
    ]
    rows = [row for shift, runs in statuses.items() for row in rows_of(shift, runs)]
    chosen = table(
        ["units chosen", "stem", *(f"{i}.{j}" for i in (1, 2, 3) for j in (0, 1))],
        units_chosen(statuses),
    )
    seeds = f"Of {arguments.seeds} searches per shift:"
    write_section("First search", f"{table(header, rows)}\n\n{seeds}\n\n{chosen}")
    draw(statuses)


if __name__ == "__main__":
    main()
