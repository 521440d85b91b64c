"""The policy against a hundred trials of TPE and against baselines, and an ablation.

Three parts. `oracle`: regret on the enumerated tables (`oracle.py` fills them). `cost`: time in
units of one full fine-tuning, and test accuracy, on five tasks at two budgets; each task has a
fixed split, so that seeds affect only search and training. `ablation`: the policy without one of
its pieces. Times are processor seconds on one thread, and a full fine-tuning is timed before and
after every search, so that other work on the machine affects both alike. The tables under
`tables/` are kept, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import oracle
import torch
from resnet20 import sources, write_task
from results import spread, table, write_section
from sklearn.model_selection import train_test_split

import autotune
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search
from autotune.study.policy.rounds import Schedule
from autotune.study.trial_record import TrialRecord
from autotune.tasks import load_task
from autotune.training.engine import Engine

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "tables" / "policy.jsonl"
SEEDS = (0, 1, 2)
BUDGETS = ("1%", "0.25%")
TRIALS = 100
T = {2: 12.706, 3: 4.303, 6: 2.571, 9: 2.306, 12: 2.201, 30: 2.045, 60: 2.001}
"""Number of pairs → Student's t for 95 %; other numbers use the next smaller one."""


def digits(shift: str, folder: Path) -> dict[str, Any]:
    """Digits under a shift: 400 for training, 150 for validation and the other 349 for test."""
    whole = load_task(f"builtin:digits-{shift}", None).train
    train, rest = halves(np.arange(len(whole)), whole.labels, 400)
    val, test = halves(rest, whole.labels, 150)
    arrays = {}
    for name, rows in {"train": train, "val": val, "test": test}.items():
        part = whole.take(rows)
        arrays[f"x_{name}"], arrays[f"y_{name}"] = part.inputs.numpy(), part.labels
    np.savez(folder / "digits.npz", **arrays)
    return {"backbone": "builtin:digits", "task": f"npz:{folder / 'digits.npz'}"}


def halves(rows: Any, labels: Any, n: int) -> Any:
    """`n` rows and the others, stratified by class."""
    return train_test_split(rows, train_size=n, stratify=labels[rows], random_state=0)


def resnet20(corruption: str, folder: Path) -> dict[str, Any]:
    write_task(folder / "cifar.npz", corruption, 3, 500, n_val=500)
    return sources(folder / "cifar.npz")


def flowers(side: int, folder: Path) -> dict[str, Any]:
    sys.path.insert(0, os.environ["AUTOTUNE_DATA"])
    from load import flowers17

    arrays = {}
    for name, (x, y) in flowers17("mobilenet_v2", side).items():
        n = {"train": 340, "val": 170}.get(name, len(y))
        arrays[f"x_{name}"], arrays[f"y_{name}"] = x[:n], y[:n]
    np.savez(folder / "flowers.npz", **arrays)
    (folder / "input.yaml").write_text(f"size: {side}\n")
    return {
        "backbone": "torchvision:mobilenet_v2",
        "weights": str(Path(os.environ["AUTOTUNE_DATA"]) / "mobilenet_v2.safetensors"),
        "input": str(folder / "input.yaml"),
        "task": f"npz:{folder / 'flowers.npz'}",
    }


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits, inverted": lambda folder: digits("inverted", folder),
    "digits, rotated": lambda folder: digits("rotated", folder),
    "ResNet-20, noise": lambda folder: resnet20("gaussian_noise", folder),
    "ResNet-20, contrast": lambda folder: resnet20("contrast", folder),
    "MobileNetV2, flowers at 128 px": lambda folder: flowers(128, folder),
}


@contextmanager
def without(piece: str) -> Iterator[dict[str, Any]]:
    """Settings of a search by policy without one of its pieces."""
    powers = {"earned": 0.25, "price": 0.25}
    patches: dict[str, Any] = {
        "proxies": patch("autotune.study.policy.features.POWERS", powers),
        "warm-up": patch.object(Schedule, "of", lambda epochs: Schedule(0, round(0.7 * epochs))),
        "supernet": patch.multiple(
            "autotune.session.session", learned_scores=lambda *_: None, save_policy=lambda *_: None
        ),
    }
    with patches.get(piece, nullcontext()):
        yield {"trials": {"supernet": 4, "confirmation": 1}.get(piece, 3)}


CLOCK = SimpleNamespace(time=time.process_time, monotonic=time.process_time)
"""Processor time of this process alone."""


@contextmanager
def timed_by_processor() -> Iterator[None]:
    """Make a search report processor seconds."""
    with ExitStack() as stack:
        for module in (
            "session.api",
            "session.session",
            "session.policy_stage",
            "study.driver",
            "study.selection.extra_jobs",
        ):
            stack.enter_context(patch(f"autotune.{module}.time", CLOCK))
        yield


def searched(task: dict[str, Any], seed: int, **settings: Any) -> dict[str, Any]:
    """Run a search between two full fine-tunings, whose mean time is the unit of its time."""
    before = unit_of_cost(task)
    result = search(task, seed, **settings)
    return {**result, "unit": mean([before, unit_of_cost(task)])}


def search(task: dict[str, Any], seed: int, **settings: Any) -> dict[str, Any]:
    """Run one search in a new folder; return its results and times."""
    with TemporaryDirectory() as folder, timed_by_processor():
        study = autotune.search(**task, seed=seed, device="cpu", out=f"{folder}/run", **settings)
        status, final = study.status(), study.final
        controls = sum(b.seconds for n, b in study.baselines.items() if "probe" not in n)
        tests = final.tests.by_seed if final.tests else {seed: final.test["accuracy"]}
        return {
            "test": final.test["accuracy"],
            "tests": list(tests.values()),
            "value": final.value,
            "plan": str(final.plan),
            "parameters": final.cost.parameters,
            "limit": status["budget"]["limit"],
            "seconds": study.seconds - controls,
            "own seconds": study.own_seconds,
            "stage": study.policy.seconds if study.policy else None,
            "same as proxies": study.policy.same_as_proxies if study.policy else None,
            "references": {n: b.test["accuracy"] for n, b in study.baselines.items()},
            "trials": [trial_seconds(trial) for trial in study.trials],
            "pruned share": pruned_share(study),
        }


def trial_seconds(trial: TrialRecord) -> dict[str, Any]:
    return {
        "plan": str(trial.plan),
        "rates": dict(trial.hyperparameters),
        "state": trial.state_name,
        "curve": list(trial.curve),
        "seconds": trial.seconds,
    }


def pruned_share(study: autotune.Study) -> float:
    """Fraction of the trials' epochs that successive halving would have run."""
    first, curves = max(1, study.settings.epochs // 4), [t.curve for t in study.trials if t.curve]
    run = total = 0
    for n, curve in enumerate(curves):
        ended, step = len(curve), first
        while step < len(curve):
            values = sorted((c[step - 1] for c in curves[: n + 1] if len(c) >= step), reverse=True)
            if len(values) >= 5 and curve[step - 1] < values[max(len(values) // 2 - 1, 0)]:
                ended = step
                break
            step *= 2
        run, total = run + ended, total + len(curve)
    return run / max(total, 1)


@contextmanager
def everything(
    task: dict[str, Any],
) -> Iterator[tuple[Callable[..., dict[str, Any]], list[float]]]:
    """Function that trains every weight at a rate with a seed, and the rates to try."""
    settings = read_settings({**task, "device": "cpu", "strategy": "random"})
    setup = prepare_search(settings, settings.backbone, settings.task)
    units = [unit.name for unit in setup.units if not unit.is_span()]
    plan = Plan(dict.fromkeys(units, Choice.of("subtune", what="all")))
    head = sorted(setup.grids["lr:head"])[1]
    try:
        yield (
            partial(trained, setup.engine, plan, head),
            sorted(setup.space.hyperparameters.lr["subtune"]),
        )
    finally:
        setup.engine.close()


def trained(engine: Engine, plan: Plan, head: float, rate: float, seed: int) -> dict[str, Any]:
    began = CLOCK.monotonic()
    job = Job("full fine-tuning", plan, {"lr:head": head, "lr:subtune": rate}, seed)
    *_, last = engine(job)
    seconds = CLOCK.monotonic() - began
    assert last.artifact is not None
    test = engine.test(last.artifact)["accuracy"]
    return {"value": last.value, "test": test, "seconds": seconds}


def full_finetuning(task: dict[str, Any]) -> dict[str, Any]:
    """Full fine-tuning with three seeds at the best of three rates on validation."""
    with everything(task) as (train, rates):
        tried = {rate: train(rate, 0) for rate in rates}
        best = max(tried, key=lambda rate: tried[rate]["value"])
        others = [train(best, seed) for seed in SEEDS[1:]]
        tests = [tried[best]["test"], *(other["test"] for other in others)]
        return {"tests": tests, "rate": best}


def unit_of_cost(task: dict[str, Any]) -> float:
    """Seconds of one full fine-tuning at the middle rate."""
    with everything(task) as (train, rates):
        seconds: float = train(rates[len(rates) // 2], 0)["seconds"]
        return seconds


def entries(ablate: bool) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Name of a row → function that measures it on a task with a budget."""
    variants: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
    if ablate:
        for piece in ("proxies", "warm-up", "supernet", "confirmation"):
            for seed in SEEDS:
                variants[f"without {piece} {seed}"] = lambda task, p=piece, s=seed: ablated(
                    task, p, s
                )
        for seed in SEEDS:
            variants[f"random search {seed}"] = lambda task, s=seed: searched(
                task, s, strategy="random", trials=4, pruner="none", references=False
            )
        return variants
    variants["full"] = full_finetuning
    for seed in SEEDS:
        variants[f"policy {seed}"] = lambda task, s=seed: searched(task, s)
    variants["tpe"] = lambda task: searched(
        task, 0, strategy="tpe", trials=TRIALS, pruner="none", references=False
    )
    return variants


def ablated(task: dict[str, Any], piece: str, seed: int) -> dict[str, Any]:
    with without(piece) as settings:
        return searched(task, seed, references=False, **settings)


def read_table() -> dict[tuple[str, str, str], Any]:
    lines = TABLE.read_text().splitlines() if TABLE.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["task"], row["budget"], row["row"]): row["found"] for row in rows}


def measure(tasks: list[str], budgets: list[str], rows: list[str], *, ablate: bool) -> None:
    """Measure the rows that are not in the table."""
    for task in tasks:
        with TemporaryDirectory() as folder:
            settings = None
            for budget in budgets:
                for name, run in entries(ablate).items():
                    is_asked = any(name.startswith(row) for row in rows)
                    if not is_asked or (task, budget, name) in read_table():
                        continue
                    settings = settings or TASKS[task](Path(folder))
                    result = run({**settings, "budget": budget})
                    with TABLE.open("a") as lines:
                        row = {"task": task, "budget": budget, "row": name, "found": result}
                        lines.write(json.dumps(row) + "\n")
                    print(f"{task}, {budget}, {name}: {result}", flush=True)


def tests_of(
    results: dict[tuple[str, str, str], Any], cell: tuple[str, str], row: str
) -> list[float]:
    """Three test accuracies, of three searches or of one winner with three seeds."""
    if (*cell, row) in results:
        return results[(*cell, row)]["tests"][: len(SEEDS)]
    if row in ("probe", "uniform", "random"):
        return [results[(*cell, f"policy {seed}")]["references"][row] for seed in SEEDS]
    return [results[(*cell, f"{row} {seed}")]["test"] for seed in SEEDS]


def cells_of(results: dict[tuple[str, str, str], Any], needed: list[str]) -> list[tuple[str, str]]:
    cells = [(task, budget) for task in TASKS for budget in BUDGETS]
    return [cell for cell in cells if all((*cell, row) in results for row in needed)]


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    n = len(differences)
    t = T[max(size for size in T if size <= n)]
    return mean(differences), t * stdev(differences) / n**0.5


def written_cost(results: dict[tuple[str, str, str], Any]) -> str:
    needed = ["full", *(f"policy {seed}" for seed in SEEDS)]
    cells, rows, differences, all_costs = cells_of(results, needed), [], [], []
    for cell in cells:
        policies = [results[(*cell, f"policy {seed}")] for seed in SEEDS]
        costs = [p["seconds"] / p["unit"] for p in policies]
        all_costs += costs
        ours = tests_of(results, cell, "policy")
        tpe_cells = ["", "", ""]
        if (*cell, "tpe") in results:
            tpe, tests = results[(*cell, "tpe")], tests_of(results, cell, "tpe")
            differences += [100 * (a - b) for a, b in zip(ours, tests, strict=True)]
            cost = tpe["seconds"] / tpe["unit"]
            whole = f"{cost:.1f} ({tpe['pruned share'] * cost:.1f})"
            tpe_cells = [whole, f"1/{cost / mean(costs):.1f}", spread(tests)]
        others = ("uniform", "random", "probe", "full")
        stage = [p["stage"] / p["unit"] for p in policies]
        rows.append(
            [
                ", ".join(cell),
                spread(costs, scale=1),
                spread(stage, scale=1, digits=2),
                *tpe_cells[:2],
                spread(ours),
                tpe_cells[2],
                *(spread(tests_of(results, cell, row)) for row in others),
            ]
        )
    header = ["task, budget", "policy ÷ full", "of it, proxies and supernet"]
    header += [f"{TRIALS} TPE trials ÷ full (pruned)", "policy ÷ TPE"]
    header += ["test: policy", "TPE", "uniform", "random placement", "probe", "full"]
    gain, half = interval(differences)
    verdict = "not distinguishable" if abs(gain) < half else "distinguishable"
    missing = [f"{t}, {b}" for t in TASKS for b in BUDGETS if (t, b) not in cells]
    return "\n\n".join(
        [
            table(header, rows),
            f"A search by policy costs {mean(all_costs):.1f} × one full fine-tuning in the mean "
            "over tasks, budgets and seeds.",
            f"Test accuracy of policy minus that of TPE, over {len(differences)} pairs: "
            f"{gain:+.2f} ± {half:.2f} points (95 %): {verdict}.",
            *([f"Not measured yet: {'; '.join(missing)}."] if missing else []),
        ]
    )


def written_ablation(results: dict[tuple[str, str, str], Any]) -> str:
    pieces = ["proxies", "warm-up", "supernet", "confirmation"]
    needed = [f"{row} {seed}" for row in ("policy", "random search") for seed in SEEDS]
    needed += [f"without {piece} {seed}" for piece in pieces for seed in SEEDS]
    rows = []
    shown = ["policy", *(f"without {piece}" for piece in pieces), "random search"]
    for cell in cells_of(results, needed):
        for row in shown:
            taken = [results[(*cell, f"{row} {seed}")] for seed in SEEDS]
            rows.append(
                [
                    f"{', '.join(cell)}: {row}",
                    spread([one["test"] for one in taken]),
                    spread([one["value"] for one in taken]),
                    spread([one["seconds"] for one in taken], scale=1, digits=0),
                ]
            )
    return table(["task, budget: variant", "test, %", "validation, %", "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["oracle", "cost", "ablation"])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="prefixes of their names")
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS))
    parser.add_argument("--rows", nargs="*", default=[""], help="prefixes of their names")
    parser.add_argument("--only-write", action="store_true", help="write the tables as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [task for task in TASKS if any(task.startswith(start) for start in arguments.tasks)]
    if "AUTOTUNE_DATA" not in os.environ:
        left_out = [task for task in tasks if not task.startswith("digits")]
        tasks = [task for task in tasks if task not in left_out]
        print(f"AUTOTUNE_DATA names no folder, so these are left out: {', '.join(left_out)}")
    if "oracle" in arguments.parts:
        write_section("Regret on enumerated tables", oracle.written())
    for part in ("cost", "ablation"):
        if part in arguments.parts and not arguments.only_write:
            measure(tasks, arguments.budgets, arguments.rows, ablate=part == "ablation")
    if "cost" in arguments.parts:
        write_section("Policy: cost and accuracy", written_cost(read_table()))
    if "ablation" in arguments.parts:
        write_section("Policy: pieces left out", written_ablation(read_table()))


if __name__ == "__main__":
    main()
