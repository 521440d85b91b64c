"""Enumerated tables: every plan of a small space trained with three seeds, under two shifts.

Half of the digits are the task: 400 for training and 499 for validation, so that accuracies are
fine-grained. The table under `tables/` is kept, so that an interrupted run can be resumed; each
line has the validation accuracies of one training after every epoch. Several processes may fill
it, one per shift.

The true value of a plan is its mean over seeds. A strategy sees the value of one seed, as in a
search, and its answer is chosen as in a search: the best two plans seen so far get a second seed,
and the better one is the answer. The regret is the difference in true value between the best plan
and the answer. Only the supernet, from which the policy gets its scores, is trained for this.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
from results import table
from scipy.stats import spearmanr
from sklearn.model_selection import train_test_split

from autotune.problem.job import Job
from autotune.problem.knapsack import Scores, total
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.run.settings import read_settings
from autotune.session.setup import Setup, prepare_search
from autotune.study.policy.policy import Policy
from autotune.study.policy.rounds import Course, Schedule, run_rounds
from autotune.study.strategies import STRATEGIES
from autotune.study.strategies.base import plan_of, search_space
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.training.oneshot.trainer import one_shot

TABLE = Path(__file__).parent / "tables" / "oracle.jsonl"
SHIFTS = ("inverted", "rotated")
SEEDS = (0, 1, 2)
RUNS, TRIALS, AFTER = 20, 100, (1, 10, 30, 100)
FIGURE = Path(__file__).parent.parent / "docs" / "regret.svg"
N_TRAIN = 400
BUDGET = "1850"
RATES = {"lr:head": 0.03, "lr:subtune": 0.01, "lr:lowrank": 0.03, "weight_decay": 0.0}
"""Middle of each grid; for the head, the best rate of the linear probe."""

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
    """Setup of the small space on the digits network under a shift, with new statistics."""
    (folder / "space.yaml").write_text(json.dumps(SPACE))
    settings = {"budget": BUDGET, "space": str(folder / "space.yaml"), "device": "cpu"}
    setup = prepare_search(read_settings(settings), "builtin:digits", task_of(shift))
    setup.engine.prepare(setup.engine.statistics())
    return setup


def task_of(shift: str) -> Task:
    """Task with its half of the digits in two stratified parts; test is the validation part."""
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
    """Plans sorted by digest, so that an unfinished table contains plans of all kinds."""
    return sorted(plans, key=lambda plan: plan.digest)


def fill(shift: str, seed: int) -> None:
    """Train the plans that are not in the table."""
    with TemporaryDirectory() as folder:
        setup = enumerated(shift, Path(folder))
    plans, known = [*all_plans(setup.problem)], read_table()
    print(f"{shift}, seed {seed}: {len(plans)} plans", flush=True)
    for plan in order_of(plans):
        if (shift, str(plan), seed) in known:
            continue
        curve = [p.value for p in setup.engine(Job("table", plan, RATES, seed))]
        line = {"shift": shift, "plan": str(plan), "seed": seed}
        line["curve"] = [round(value, 4) for value in curve]
        with TABLE.open("a") as table:
            table.write(json.dumps(line) + "\n")


class Regrets:
    """Table of one shift, and regrets of strategies on it."""

    def __init__(self, shift: str) -> None:
        with TemporaryDirectory() as folder:
            self.setup = enumerated(shift, Path(folder))
        self.problem = self.setup.problem
        self.plans = {str(plan): plan for plan in all_plans(self.problem)}
        self.seen: dict[str, list[float]] = {}
        for (of, plan, _), row in sorted(read_table().items()):
            if of == shift:
                self.seen.setdefault(plan, []).append(row["curve"][-1])
        self.truth = {plan: mean(values) for plan, values in self.seen.items()}

    @property
    def is_complete(self) -> bool:
        return self.seen.keys() == self.plans.keys()

    def value(self, plan: Plan, seed: int) -> float:
        seen = self.seen[str(plan)]
        return seen[seed % len(seen)]

    def by_sampler(self, strategy: str, seed: int, scores: Scores | None) -> list[float]:
        """Regret after every trial of a strategy."""
        grids = {name: (rate,) for name, rate in RATES.items()}
        sampler = STRATEGIES.load(strategy)(self.problem, grids, seed=seed, scores=scores)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space, tried = search_space(self.problem, grids), []
        for _ in range(TRIALS):
            if sampler.is_idle(study):  # greedy has ended
                tried.append(tried[-1])
                continue
            trial = study.ask(dict(space))
            tried.append(plan_of(self.problem, trial.params))
            study.tell(trial, self.value(tried[-1], seed))
        return self.after(tried, seed)

    def by_ranking(self, scores: Scores, seed: int) -> list[float]:
        """Regret after every trial if plans are tried in the order of their scores."""
        order = sorted(self.plans.values(), key=lambda plan: -total(plan, self.problem, scores))
        return self.after(order[:TRIALS], seed)

    def after(self, tried: list[Plan], seed: int) -> list[float]:
        """Regret of the answer after each of the plans tried, in points."""
        best, finalists, regrets = max(self.truth.values()), list[Plan](), []
        for plan in tried:
            if plan not in finalists:
                ranked = sorted([*finalists, plan], key=lambda p: -self.value(p, seed))
                finalists = ranked[:2]
            answer = max(finalists, key=lambda p: self.value(p, seed) + self.value(p, seed + 1))
            regrets.append(100 * (best - self.truth[str(answer)]))
        return regrets

    def policy(self) -> tuple[Scores, Scores]:
        """Scores from proxies alone, and after the supernet was trained."""
        engine = self.setup.engine
        schedule = Schedule.of(engine.recipe.epochs)
        with one_shot(engine, self.problem.choices, RATES, [RATES["lr:head"]]) as shot:
            first, second = shot.proxies()
            halves = {
                e: {k: (v + second[e][k]) / 2 for k, v in f.items()} for e, f in first.items()
            }
            policy = Policy(self.problem, halves, seed=0)
            for _ in run_rounds(policy, shot, schedule, Course()):
                pass
        return policy.first_scores, policy.scores()

    def agreement(self, scores: Scores) -> float:
        """Rank correlation of summed scores with the true values of plans."""
        sums = [total(self.plans[plan], self.problem, scores) for plan in self.truth]
        return float(spearmanr(sums, [*self.truth.values()]).statistic)


def written() -> str:
    """Regrets of all strategies on every shift whose table is complete, and the figure."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parts, curves = [], {}
    for shift in SHIFTS:
        table_of = Regrets(shift)
        if not table_of.is_complete:
            n, of = len(table_of.seen), len(table_of.plans)
            parts.append(f"{shift}: {n} of {of} plans are trained so far.")
            continue
        proxies, scores = table_of.policy()
        run: dict[str, Callable[[int], list[float]]] = {
            "random": lambda seed, t=table_of: t.by_sampler("random", seed, None),
            **{
                name: lambda seed, t=table_of, n=name: t.by_sampler(n, seed, None)
                for name in ("qmc", "tpe", "gp", "nsga2", "greedy", "bruteforce")
            },
            "proxies, best first": lambda seed, t=table_of, s=proxies: t.by_ranking(s, seed),
            "policy, no scores": lambda seed, t=table_of: t.by_sampler("policy", seed, None),
            "policy, proxies": lambda seed, t=table_of, s=proxies: t.by_sampler("policy", seed, s),
            "policy": lambda seed, t=table_of, s=scores: t.by_sampler("policy", seed, s),
        }
        by_strategy = {
            name: np.array([one(seed) for seed in range(RUNS)]) for name, one in run.items()
        }
        curves[shift] = by_strategy
        rows = [
            [name, *(_shown(regrets[:, n - 1]) for n in AFTER)]
            for name, regrets in by_strategy.items()
        ]
        seeds = min(len(values) for values in table_of.seen.values())
        parts += [
            f"### digits, {shift}",
            f"{len(table_of.plans)} plans, {seeds} seeds each; best true value "
            f"{100 * max(table_of.truth.values()):.1f} %, mean "
            f"{100 * mean(table_of.truth.values()):.1f} %. Rank correlation of a plan's score with "
            f"its true value: proxies {table_of.agreement(proxies):.2f}, policy "
            f"{table_of.agreement(scores):.2f}.",
            table(["regret in points after", *(f"{n} trials" for n in AFTER)], rows),
        ]
    if curves:
        draw(curves)
        parts.append("![Regret after each trial](../docs/regret.svg)")
    return "\n\n".join(parts)


def _shown(values: Any) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def draw(curves: dict[str, dict[str, Any]]) -> None:
    """Draw the mean regret after each trial, one panel per shift."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.6), squeeze=False)
    for panel, (shift, by_strategy) in zip(panels[0], curves.items(), strict=True):
        for name, regrets in by_strategy.items():
            style = {"color": "black", "linewidth": 2} if name == "policy" else {}
            panel.plot(np.arange(1, TRIALS + 1), regrets.mean(0), label=name, **style)
        panel.set(xscale="log", xlabel="trials", ylabel="regret, points", title=f"digits, {shift}")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shifts", nargs="*", default=list(SHIFTS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed, shift in product(SEEDS, arguments.shifts):
        fill(shift, seed)


if __name__ == "__main__":
    main()
