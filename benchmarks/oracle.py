"""The enumerated table: every plan of a small space trained with three seeds, under two shifts.

Half of the digits are the task: 400 train, 499 validate, so that the table is fine-grained. The
table under `tables/` is kept, so that a run can go on: one line a training, its validation
accuracy after every epoch. Several processes may fill it: each takes one shift.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.model_selection import train_test_split

from autotune.config import read_settings
from autotune.plan import Plan
from autotune.problem import Problem
from autotune.setup import Setup, prepare_search
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.trial import Job

TABLE = Path(__file__).parent / "tables" / "oracle.jsonl"
SHIFTS = ("inverted", "rotated")
SEEDS = (0, 1, 2)
N_TRAIN = 400
BUDGET = "1850"
RATES = {"lr:head": 0.03, "lr:subtune": 0.01, "lr:lowrank": 0.03, "weight_decay": 0.0}
"""The middle of each grid; the head's as suits the linear probe."""

SPACE = {
    "family": "digits",
    "units": {
        "block": {"stem": r"(?:conv1|bn1)\.", "block": r"(layer\d\.\d)\."},
        "layer": {"stem": r"(?:conv1|bn1)\.", "block": r"(layer\d\.\d)\."},
    },
    "choices": [{"subtune": {"what": "norms"}}, {"lowrank": {"rank": [1, 2]}}],
    "hyperparameters": {"lr": {"head": [0.03], "subtune": [0.01], "lowrank": [0.03]}},
}


def enumerated(shift: str, folder: Path) -> Setup:
    """The small space on the digits network under a shift, its statistics re-estimated."""
    (folder / "space.yaml").write_text(json.dumps(SPACE))
    given = {"budget": BUDGET, "space": str(folder / "space.yaml"), "device": "cpu"}
    setup = prepare_search(read_settings(given), "builtin:digits", task_of(shift))
    setup.engine.prepare(setup.engine.statistics())
    return setup


def task_of(shift: str) -> Task:
    """The task's half of the digits in two parts, cut by class; there is no test here."""
    whole = load_task(f"builtin:digits-{shift}", None)
    rows = range(len(whole.train))
    train, val = train_test_split(
        [*rows], train_size=N_TRAIN, stratify=whole.train.labels, random_state=0
    )
    parts = [whole.train.take(torch.tensor(sorted(r)).numpy()) for r in (train, val)]
    return Task(whole.source, parts[0], parts[1], parts[1], whole.classes)


def all_plans(problem: Problem) -> Iterator[Plan]:
    """Every plan within the budget."""
    for chosen in product(*(problem.choices[unit] for unit in problem.units)):
        plan = Plan(dict(zip(problem.units, chosen, strict=True)))
        if problem.fits(plan):
            yield plan


def read_table() -> dict[tuple[str, str, int], Any]:
    """(shift, plan, seed) → its line."""
    lines = TABLE.read_text().splitlines() if TABLE.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["shift"], row["plan"], row["seed"]): row for row in rows}


def order_of(plans: list[Plan]) -> list[Plan]:
    """By digest, so that a table that is half full has seen a bit of everything."""
    return sorted(plans, key=lambda plan: plan.digest)


def fill(shift: str, seed: int) -> None:
    """Train what is not in the table yet."""
    with TemporaryDirectory() as folder:
        setup = enumerated(shift, Path(folder))
    plans, known = [*all_plans(setup.problem())], read_table()
    print(f"{shift}, seed {seed}: {len(plans)} plans", flush=True)
    for plan in order_of(plans):
        if (shift, str(plan), seed) in known:
            continue
        curve = [p.value for p in setup.engine(Job("table", plan, RATES, seed))]
        line = {"shift": shift, "plan": str(plan), "seed": seed}
        line["curve"] = [round(value, 4) for value in curve]
        with TABLE.open("a") as table:
            table.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shifts", nargs="*", default=list(SHIFTS))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed, shift in product(SEEDS, given.shifts):
        fill(shift, seed)


if __name__ == "__main__":
    main()
