"""A search by autotune against a loop of Optuna over PEFT: accuracy of the winners, and time.

The loop is what a user would write without autotune: TPE chooses which blocks get LoRA, its rank
and the learning rates, PEFT builds it (`target_modules`, `rank`, `modules_to_save` for the head),
configurations over the budget are discarded, and the best on validation of a hundred trained ones
is tested once. Data, epochs, batches and budget are those of autotune's search, whose whole time
counts except random placement, a control. Times are processor seconds on one thread, so that other
work on the machine does not count. Results are kept in `tables/peft.jsonl`, so that an interrupted
run can be resumed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from peer import fit
from peft import LoraConfig, get_peft_model
from policy import T, digits, flowers, resnet20, search
from results import spread, table, write_section
from torch import Tensor, nn

from autotune.backbones.heads.copies import new_head
from autotune.run.settings import read_settings
from autotune.session.setup import Setup, prepare_search

TABLE = Path(__file__).parent / "tables" / "peft.jsonl"
TRIALS, SEEDS = 100, (0, 1, 2)
TASKS = {
    "digits, inverted": lambda folder: digits("inverted", folder),
    "digits, rotated": lambda folder: digits("rotated", folder),
    "ResNet-20, noise": lambda folder: resnet20("gaussian_noise", folder),
    "ResNet-20, contrast": lambda folder: resnet20("contrast", folder),
    "MobileNetV2, flowers at 96 px": lambda folder: flowers(96, folder),
}
TARGETS = nn.Conv2d | nn.Linear


class User:
    """Loop of Optuna over PEFT on a task."""

    def __init__(self, setup: Setup, seed: int) -> None:
        self.setup, self.seed, task = setup, seed, setup.engine.task
        assert task.val is not None and task.test is not None
        parts = (task.train, task.val, task.test)
        self.tensors: list[Tensor] = [
            t for p in parts for t in (torch.as_tensor(p.inputs), torch.from_numpy(p.labels))
        ]
        self.limit = setup.problem.budget.limit
        self.best, self.winner, self.thrown, self.trained = -1.0, None, 0, 0

    def blocks(self) -> dict[str, list[str]]:
        """Block → names of its layers that can have LoRA."""
        backbone, layers = self.setup.backbone, dict[str, list[str]]()
        for name, module in backbone.network.named_modules():
            plain = isinstance(module, TARGETS) and getattr(module, "groups", 1) == 1
            if plain and name != backbone.head:
                block = re.match(r"((layer|features)\w*\.\d+)", name)
                layers.setdefault(block[1] if block else "stem", []).append(name)
        return layers

    def model(self, targets: list[str], rank: int) -> Any:
        backbone = self.setup.backbone
        network = copy.deepcopy(backbone.network).eval()
        parent, _, name = backbone.head.rpartition(".")
        head = new_head(network.get_submodule(backbone.head), len(self.setup.task.classes))
        setattr(network.get_submodule(parent), name, head)
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=targets, modules_to_save=[backbone.head]
        )
        return get_peft_model(network, config)

    def objective(self, trial: optuna.Trial) -> float:
        targets = [
            name
            for block, names in self.blocks().items()
            if trial.suggest_categorical(block, [False, True])
            for name in names
        ]
        rank = trial.suggest_categorical("rank", [1, 2, 4, 8])
        rate = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        head_rate = trial.suggest_float("head lr", 1e-4, 1e-1, log=True)
        if not targets:
            raise optuna.TrialPruned
        torch.manual_seed(self.seed * 1000 + trial.number)
        model = self.model(targets, rank)
        head = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
        lora = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
        if sum(p.numel() for p in lora) > self.limit:
            self.thrown += 1
            raise optuna.TrialPruned
        groups = [{"params": head, "lr": head_rate}, {"params": lora, "lr": rate}]
        recipe = self.setup.engine.recipe
        value = fit(model, groups, self.tensors[:4], recipe.epochs, recipe.batch_size)
        self.trained += 1
        if value > self.best:
            self.best, self.winner = value, model
        return value

    def search(self) -> dict[str, Any]:
        began = time.process_time()
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed)
        )
        while self.trained < TRIALS:
            study.optimize(self.objective, n_trials=1)
        seconds = time.process_time() - began
        assert self.winner is not None
        with torch.no_grad():
            logits = torch.cat([self.winner(x) for x in self.tensors[4].split(64)])
        test = float((logits.argmax(1) == self.tensors[5]).float().mean())
        return {"test": test, "value": self.best, "seconds": seconds, "thrown away": self.thrown}


def by_peft(task: dict[str, Any], seed: int) -> dict[str, Any]:
    settings = read_settings({**task, "device": "cpu"})
    setup = prepare_search(settings, settings.backbone, settings.task)
    try:
        return User(setup, seed).search()
    finally:
        setup.engine.close()


def by_autotune(task: dict[str, Any], seed: int) -> dict[str, Any]:
    result = search(task, seed)
    return {**result, "seconds": result["own seconds"]}


SEARCHES = {"autotune": by_autotune, "Optuna and PEFT": by_peft}


def read() -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["task"], row["way"], row["seed"]): row for row in rows}


def measure(tasks: list[str]) -> None:
    """Run the searches that are not in the table, the cheaper kind first."""
    for task in tasks:
        for kind, run in SEARCHES.items():
            for seed in SEEDS:
                if (task, kind, seed) in read():
                    continue
                with TemporaryDirectory() as folder:
                    row = run(TASKS[task](Path(folder)), seed)
                row = {"task": task, "way": kind, "seed": seed, **row}
                with TABLE.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(task, kind, seed, row["test"], row["seconds"], flush=True)


def written() -> str:
    stored, rows, pairs = read(), [], []
    for task in TASKS:
        runs = [[stored.get((task, kind, seed)) for seed in SEEDS] for kind in SEARCHES]
        if not all(row for of_kind in runs for row in of_kind):
            continue
        ours, peft = runs
        gained = [100 * (a["test"] - b["test"]) for a, b in zip(ours, peft, strict=True)]  # type: ignore[index]
        pairs += gained
        seconds = [mean(row["seconds"] for row in of_kind) for of_kind in runs]  # type: ignore[index]
        tests = [spread([row["test"] for row in of_kind]) for of_kind in runs]  # type: ignore[index]
        rows.append([task, *tests, paired(gained)])
        rows[-1] += [*(f"{s:.0f}" for s in seconds), f"1/{seconds[1] / seconds[0]:.1f}"]
    rows.append([f"all {len(pairs)} pairs", "", "", paired(pairs), "", "", ""])
    head = ["task", "autotune, %", "Optuna and PEFT, %", "difference, points"]
    return table([*head, "autotune, s", "Optuna and PEFT, s", "time"], rows)


def paired(gained: list[float]) -> str:
    """Mean difference with its 95 % interval."""
    half = T[len(gained)] * stdev(gained) / len(gained) ** 0.5
    return f"{mean(gained):+.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    if "AUTOTUNE_DATA" not in os.environ:
        arguments.tasks = [task for task in arguments.tasks if task.startswith("digits")]
        print("AUTOTUNE_DATA names no folder: only the digits are compared.", file=sys.stderr)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    measure(arguments.tasks)
    write_section(
        "Searches against Optuna over PEFT",
        f"Budget 1 %, {TRIALS} trained trials of TPE, three seeds; mean ± standard deviation, "
        f"and the paired difference with its 95 % interval. Two of the PEFT runs on ResNet-20 "
        f"shared the machine with other work; the third ran alone and took 2,400 s."
        f"\n\n{written()}",
    )


if __name__ == "__main__":
    main()
