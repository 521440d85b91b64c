"""All strategies with equal training budgets; fronts on enumerated tables; greedy on ResNet-20.

`shifts`: the digits under four shifts, with the same number of trainings per strategy and no
pruning. `proxies`: time of each criterion on ResNet-50. `front`: savings and losses by pruning on
the enumerated tables (`oracle.py` fills them). `greedy`: SubTuning on ResNet-20, with whole blocks
and five folds (needs AUTOTUNE_DATA). The table of shifts is kept, so that an interrupted run can be
resumed. `policy.py oracle` measures the regret of all strategies.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from oracle import RATES, SHIFTS, Regrets
from oracle import read_table as read_plans
from resnet20 import sources, write_task
from results import spread, table, write_section
from torch.utils.data import TensorDataset

import autotune
from autotune.problem.plan import Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search, released
from autotune.study.pareto import objective_price, trial_price
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import STRATEGIES
from autotune.study.strategies.base import plan_of, search_space
from autotune.training.estimate import estimate
from autotune.training.oneshot.trainer import one_shot
from autotune.training.oneshot.unit_scores import scores_by_half
from autotune.training.oneshot.zero_cost_proxies import DRAWS

TABLE = Path(__file__).parent / "tables" / "strategies.jsonl"
FIGURE = Path(__file__).parent.parent / "docs" / "strategies.svg"
TASKS = ("inverted", "rotated", "noise", "contrast")
STRATEGY_NAMES = ("policy", "proxy", "greedy", "tpe", "gp", "nsga2", "qmc", "random")
TRIALS, EPOCHS, SEEDS = 10, 6, (0, 1)
FRONT_TRIALS, FRONT_RUNS, FRONT_STRATEGIES = 100, 12, ("random", "nsga2", "tpe")


def searched(shift: str, strategy: str, seed: int) -> dict[str, Any]:
    """Run one search on the digits; the supernet of a policy replaces one trial."""
    with TemporaryDirectory() as folder:
        study = autotune.search(
            task=f"builtin:digits-{shift}",
            strategy=strategy,
            trials=TRIALS - (strategy == "policy"),
            epochs=EPOCHS,
            seed=seed,
            pruner="none",
            bnstats="on",
            references=strategy == "random",
            device="cpu",
            out=f"{folder}/run",
        )
        final = study.final
        assert final is not None
        return {
            "test": final.test["accuracy"],
            "tests": final.tests.mean if final.tests else None,
            "value": final.value,
            "plan": str(final.plan),
            "parameters": final.cost.parameters,
            "trained": sum(trial.repeat_of is None for trial in study.trials),
            "seconds": study.training_seconds,
            "references": {n: b.test["accuracy"] for n, b in study.baselines.items()},
        }


def rows_found() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.is_file() else []


def measure(tasks: Sequence[str], strategies: Sequence[str]) -> None:
    """Run the searches that are not in the table."""
    for seed in SEEDS:
        for shift in tasks:
            for strategy in strategies:
                key = {"task": shift, "strategy": strategy, "seed": seed}
                if any(key.items() <= row.items() for row in rows_found()):
                    continue
                row = {**key, "found": searched(shift, strategy, seed)}
                with TABLE.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(row, flush=True)


def written_shifts() -> str:
    """Table of test accuracies by strategy and shift, averaged over seeds; draws the figure."""
    stored = rows_found()
    cells: dict[tuple[str, str], list[float]] = {}
    for row in stored:
        cells.setdefault((row["strategy"], row["task"]), []).append(row["found"]["test"])
        for name, test in row["found"]["references"].items():
            if name in ("probe", "uniform"):
                cells.setdefault((name, row["task"]), []).append(test)
    rows = []
    for name in (*STRATEGY_NAMES, "uniform", "probe"):
        tests = [cells.get((name, task), []) for task in TASKS]
        together = [mean(values) for values in tests if values]
        runs = [row["found"] for row in stored if row["strategy"] == name]
        trained = f"{mean(run['trained'] for run in runs):.1f}" if runs else ""
        shown = [spread(values) if values else "" for values in tests]
        rows.append([name, *shown, spread([mean(together)]) if together else "", trained])
    draw({name: [cells.get((name, task), []) for task in TASKS] for name in STRATEGY_NAMES})
    return (
        f"Test accuracy in percent (180 images) at 1 %, {len(SEEDS)} searches each of {TRIALS} "
        f"trainings of {EPOCHS} epochs (the policy's supernet counts as one), statistics "
        "re-estimated; the answer is the best plan over seeds, as in any search. `trained` is the "
        "number of plans that were trained, as repeats are answered from the record. Ten trials "
        "of `tpe`, `gp` and `nsga2` are random, and ten of greedy are part of its first round.\n\n"
        + table(["strategy", *TASKS, "mean", "trained"], rows)
        + "\n\n![Test accuracy of all strategies](../docs/strategies.svg)"
    )


def draw(cells: dict[str, list[list[float]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "autotune"
    figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
    for at, (name, tests) in enumerate(cells.items()):
        for i, values in enumerate(tests):
            x = i + (at - len(cells) / 2) * 0.09
            axis.plot([x] * len(values), [100 * v for v in values], "o", color=f"C{at}", ms=4)
            axis.plot(x, 100 * mean(values), "_", color=f"C{at}", ms=10, mew=2) if values else None
        axis.plot([], [], "o", color=f"C{at}", label=name)
    axis.set_xticks(range(len(TASKS)), TASKS)
    axis.set(ylabel="test accuracy, %")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(ncols=len(cells), loc="outside lower center", frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})


class Curves:
    """Enumerated table of one shift with learning curves, replayed as trials of a study."""

    def __init__(self, shift: str) -> None:
        self.of = Regrets(shift)
        self.curves = {
            (plan, seed): row["curve"]
            for (name, plan, seed), row in read_plans().items()
            if name == shift
        }
        self.price = objective_price("accuracy,cost", self.of.problem)
        assert self.price is not None

    def run(self, strategy: str, seed: int, pruner: str) -> dict[str, Any]:
        """Replay a search; return its epochs, (price, value) of complete trials, and plans."""
        problem, grids = self.of.problem, {name: (rate,) for name, rate in RATES.items()}
        sampler = STRATEGIES.load(strategy)(problem, grids, seed=seed)
        stops = PRUNERS.load(pruner)(self.epochs)
        stops.price = sampler.price = trial_price(problem, self.price)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=stops)
        space, ran, plans = search_space(problem, grids), 0, list[Plan]()
        for _ in range(FRONT_TRIALS):
            trial = study.ask(dict(space))
            plans.append(plan_of(problem, trial.params))
            curve = self.curves[str(plans[-1]), seed % 3]
            ran += self._replay(study, trial, curve, repeats=plans[-1] in plans[:-1])
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        points = [(problem.cost(plans[t.number]).parameters, t.values[0]) for t in complete]
        return {"epochs": ran, "points": points, "plans": plans}

    def _replay(self, study: Any, trial: Any, curve: Sequence[float], *, repeats: bool) -> int:
        """Report the curve of a trial; return its number of epochs, which is 0 for a repeat."""
        if repeats:
            trial.set_user_attr("record", {"repeat_of": 0})
        for step, value in enumerate(curve, 1):
            trial.report(value, step)
            if step < len(curve) and not repeats and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return step
        study.tell(trial, curve[-1])
        return 0 if repeats else len(curve)

    @property
    def epochs(self) -> int:
        return len(next(iter(self.curves.values())))

    def losses(self, front: Points, points: Points, seed: int) -> list[float]:
        """Gain of each point of a front over the best of `points` that costs no more.

        The head alone, without cost, always counts among these.
        """
        alone = self.curves[str(Plan()), seed % 3][-1]
        reached = [max([alone, *(v for p, v in points if p <= price)]) for price, _ in front]
        return [max(value - r, 0.0) for (_, value), r in zip(front, reached, strict=True)]

    def front(self, seed: int) -> Points:
        """Front of all plans of the table, by the values of one seed."""
        cost = self.of.problem.cost
        plans = self.of.plans.items()
        return front_of([(cost(p).parameters, self.curves[n, seed % 3][-1]) for n, p in plans])


Points = Sequence[tuple[int, float]]
"""(price, value) pairs."""


def front_of(points: Points) -> Points:
    curve: list[tuple[int, float]] = []
    for price, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not curve or value > curve[-1][1]:
            curve.append((price, value))
    return curve


def written_front() -> str:
    """Table by strategy and pruner.

    Lost points are only defined for `random`, whose plans do not depend on the pruner.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for shift in SHIFTS:
        curves = Curves(shift)
        for strategy in FRONT_STRATEGIES:
            whole = [curves.run(strategy, seed, "none") for seed in range(FRONT_RUNS)]
            for pruner in ("forecast", "halving"):
                ended = [curves.run(strategy, seed, pruner) for seed in range(FRONT_RUNS)]
                rows.append([f"{shift}: {strategy}, {pruner}", *_compared(curves, whole, ended)])
    return (
        f"{FRONT_RUNS} runs of {FRONT_TRIALS} trials by accuracy and cost on the enumerated "
        "tables, with and without a pruner. Behind: mean distance in points of accuracy of the "
        "front to that of all plans of the table; the error of one training is about 0.6. Lost: "
        "points that the same plans would have had without pruning (for `random` only, as other "
        "strategies propose other plans once a trial has ended early).\n\n"
        + table(["shift: strategy, pruner", *FRONT_COLUMNS], rows)
    )


FRONT_COLUMNS = ("epochs saved, %", "behind", "behind, unpruned", "points lost, %", "mean loss")


def _compared(
    curves: Curves, whole: list[dict[str, Any]], ended: list[dict[str, Any]]
) -> list[str]:
    pairs = [*zip(range(FRONT_RUNS), whole, ended, strict=True)]
    behind = [
        [100 * mean(curves.losses(curves.front(seed), run["points"], seed)) for run in runs]
        for seed, *runs in pairs
    ]
    shown = [
        spread([1 - pruned["epochs"] / a["epochs"] for _, a, pruned in pairs], digits=0),
        *(spread([of[i] for of in behind], scale=1, digits=2) for i in (1, 0)),
    ]
    if any(a["plans"] != pruned["plans"] for _, a, pruned in pairs):
        return [*shown, "", ""]
    lost = [curves.losses(front_of(a["points"]), b["points"], seed) for seed, a, b in pairs]
    parts = [mean(loss > 0 for loss in losses) for losses in lost]
    means = [100 * mean(losses) for losses in lost]
    return [*shown, spread(parts, digits=0), spread(means, scale=1, digits=2)]


def greedy() -> str:
    """Forward selection of whole blocks, with plans scored by five folds."""
    space = {
        "family": "resnet",
        "units": {
            level: {"stem": r"(?:conv1|bn1)\.", "block": r"(layer\d\.\d)\."}
            for level in ("block", "layer")
        },
        "choices": [{"subtune": {"what": "all"}}],
        "hyperparameters": {"lr": {"head": [0.01], "subtune": [0.003]}},
    }
    with TemporaryDirectory() as folder:
        home = Path(folder)
        write_task(home / "cifar.npz", "gaussian_noise", 3, 150, n_val=100)
        (home / "space.yaml").write_text(json.dumps(space))
        study = autotune.search(
            **{**sources(home / "cifar.npz"), "space": str(home / "space.yaml")},
            budget="30%",
            strategy="greedy",
            options={"epsilon": 0.002},
            folds=5,
            epochs=3,
            device="cpu",
            out=str(home / "run"),
        )
        best, baselines = study.best, study.baselines
        answers = [("greedy", str(best.plan), best.cost.parameters, best.value, best.test)]
        answers += [
            (name, str(one.plan), one.cost.parameters, one.value, one.test)
            for name, one in baselines.items()
        ]
        rows = [
            [name, plan, f"{cost:,}", f"{100 * value:.1f}", f"{100 * test['accuracy']:.1f}"]
            for name, plan, cost, value, test in answers
        ]
        singles = [t for t in study.trials if len(t.plan) == 1 and t.value is not None]
        order = ", ".join(f"{t.plan} {100 * (t.value or 0):.1f}" for t in singles)
        return (
            f"ResNet-20 under gaussian noise 3, 250 images in five folds, 3 epochs, at most 30 % "
            f"of the parameters, whole blocks: {len(study.trials)} trials of five trainings, "
            f"{study.own_seconds:.0f} s. Single blocks: {order}.\n\n"
            + table(["", "plan", "parameters", "validation (folds), %", "test, %"], rows)
        )


def proxies() -> str:
    """Table of the time of each criterion on ResNet-50, for both halves; only a head is trained.

    The network has random weights, which do not affect the time.
    """
    from torchvision.models import resnet50

    draw = torch.Generator().manual_seed(0)
    images = torch.rand(128, 3, 224, 224, generator=draw)
    labels = torch.arange(128) % 8
    settings = read_settings({"budget": "1%", "strategy": "proxy", "space": "resnet"})
    data = TensorDataset(images, labels)
    with released(prepare_search(settings, resnet50(), (data, data, data))) as setup:
        engine, rates = setup.engine, setup.grids["lr:head"]
        problem = setup.problem
        middle = {name: sorted(grid)[len(grid) // 2] for name, grid in setup.grids.items()}
        began = time.monotonic()
        with one_shot(engine, problem.choices, middle, rates) as shot:
            rows = [["head, and initial sparse deltas", f"{time.monotonic() - began:.0f}"]]
            for name, draws in (("mass", 0), ("ratio", DRAWS)):
                began = time.monotonic()
                shot.proxies(draws=draws)
                rows.append([name, f"{time.monotonic() - began:.0f}"])
        print(rows, flush=True)
        for name in ("fisher", "relative", "taylor", "activation", "condition"):
            began = time.monotonic()
            scores_by_half(engine, name, rates)
            rows.append([name, f"{time.monotonic() - began:.0f}"])
            print(rows[-1], flush=True)
        full = estimate(engine).full / settings.epochs
    return (
        f"ResNet-50, 128 images of 224², batches of 32, {torch.get_num_threads()} threads; "
        f"{len(problem.units)} units, {sum(map(len, problem.choices.values()))} choices. One epoch "
        f"of full fine-tuning takes {full:.0f} s. `mass` and `ratio` need the first row in "
        "addition; the others include the linear probe with which they start.\n\n"
        + table(["criterion", "seconds"], rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["shifts", "front", "proxies", "greedy"])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGY_NAMES))
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if "shifts" in arguments.parts:
        measure(arguments.tasks, arguments.strategies)
        write_section("Strategies with equal training", written_shifts())
    if "front" in arguments.parts:
        write_section("The front on enumerated tables", written_front())
    if "proxies" in arguments.parts:
        torch.set_num_threads(threads)
        write_section("Proxies on ResNet-50", proxies())
        torch.set_num_threads(1)
    if "greedy" in arguments.parts:
        if "AUTOTUNE_DATA" not in os.environ:
            print("AUTOTUNE_DATA names no folder, so greedy on ResNet-20 is left out.")
        else:
            write_section("Greedy on ResNet-20", greedy())


if __name__ == "__main__":
    main()
