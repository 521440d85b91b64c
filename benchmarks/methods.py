"""Every method alone under 1 %, on four backbones: accuracy, cost, time and memory.

Three placements of a method (evenly, from the first unit on, from the last one back; for spans,
each of them) are trained with the middle of its three learning rates. The best placement on
validation is trained with the other two rates, and the best of these with five seeds; only these
are tested. The linear probe is treated in the same way. At the end the steps of all plans are
timed, each in alternation with full fine-tuning. The tables under `tables/` are kept, so that an
interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peak import peak_of_step
from placing import Placer
from resnet20 import sources, write_task
from results import spread, table, write_section
from torch import nn
from torch.nn import functional as F

from autotune.backbones.sources.digits_data import halves
from autotune.deltas.attach import attached
from autotune.deltas.candidates import make_choice
from autotune.errors import AutotuneError
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.costing import parse_budget
from autotune.session.setup import Setup, prepare_search
from autotune.tasks.loading import batches

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "tables" / "methods.jsonl"
TIMES = Path(__file__).parent / "tables" / "methods_times.jsonl"
TURNS = 3
SEEDS = range(5)
T_4 = 2.776
"""Student's t for 95 % and four degrees of freedom."""

METHODS: dict[str, dict[str, Any]] = {
    "subtune all": {"subtune": {"what": "all"}},
    "subtune all, statistics adapting": {"subtune": {"what": "all", "bn": "adapt"}},
    "subtune norms": {"subtune": {"what": "norms"}},
    "subtune biases": {"subtune": {"what": "biases"}},
    "reparam full": {"reparam": {"form": "full"}},
    "reparam low rank": {"reparam": {"form": "lowrank", "rank": [1, 2, 4, 8, 16]}},
    "reparam per channel": {"reparam": {"form": "channel"}},
    "reparam times": {"reparam": {"form": "times", "rank": [1, 2, 4, 8, 16]}},
    "scale": {"scale": {}},
    "lowrank": {"lowrank": {"rank": [1, 2, 4, 8, 16]}},
    "xs": {"xs": {"rank": [2, 4, 8, 16, 32, 64]}},
    "sparse, Fisher": {"sparse": {"k": "budget"}},
    "sparse, gradient": {"sparse": {"k": "budget", "by": "gradient"}},
    "sparse, random": {"sparse": {"k": "budget", "by": "random"}},
    "res_adapter": {"res_adapter": {"width": "budget"}},
    "res_adapter, attention": {"res_adapter": {"width": "budget", "at": "attention"}},
    "res_adapter, mlp": {"res_adapter": {"width": "budget", "at": "mlp"}},
    "res_prefix": {"res_prefix": {"length": "budget"}},
    "res_prompt": {"res_prompt": {"length": "budget"}},
    "skip": {"skip": {"width": "budget"}},
    "side": {"side": {"width": "budget"}},
    "side, curriculum": {"side": {"width": "budget", "curriculum": 100}},
    "bypass": {"bypass": {"width": "budget"}},
}


class DigitsTransformer(nn.Module):
    """torchvision's VisionTransformer on 8×8 digits: 16 patches, width 96, four blocks."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import VisionTransformer

        vit = VisionTransformer(8, 2, 4, 4, 96, 192, num_classes=10)
        vit.conv_proj = nn.Conv2d(1, 96, 2, 2)
        nn.init.trunc_normal_(vit.heads.head.weight, std=0.02)
        for name, child in vit.named_children():
            self.add_module(name, child)
        self.class_token = vit.class_token

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1)
        return self.heads(self.encoder(tokens)[:, 0])


def digits_transformer() -> nn.Module:
    """Pretrained for some seconds on the half of the digits that no task has."""
    (x, y), _ = halves()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    torch.manual_seed(0)
    network, epochs = DigitsTransformer(), 40
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 64 * 64].view(-1, 64):
            loss = F.cross_entropy(network(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def digits(folder: Path) -> dict[str, Any]:
    return {"backbone": "builtin:digits", "task": "builtin:digits-inverted"}


def resnet20(folder: Path) -> dict[str, Any]:
    write_task(folder / "cifar.npz", "gaussian_noise", 3, 500, n_val=500)
    return sources(folder / "cifar.npz")


def flowers(folder: Path) -> dict[str, Any]:
    sys.path.insert(0, os.environ["AUTOTUNE_DATA"])
    from load import flowers17

    parts = flowers17("mobilenet_v2", 96).items()
    n = {"train": 340, "val": 170, "test": 510}
    arrays = {
        f"{kind}_{part}": array[: n[part]]
        for part, pair in parts
        for kind, array in zip("xy", pair, strict=True)
    }
    np.savez(folder / "flowers.npz", **arrays)
    (folder / "input.yaml").write_text("size: 96\n")
    return {
        "backbone": "torchvision:mobilenet_v2",
        "weights": str(Path(os.environ["AUTOTUNE_DATA"]) / "mobilenet_v2.safetensors"),
        "input": str(folder / "input.yaml"),
        "task": f"npz:{folder / 'flowers.npz'}",
        "epochs": 5,
    }


def transformer(folder: Path, shift: str) -> dict[str, Any]:
    return {
        "backbone": f"python:{__file__}:digits_transformer",
        "task": f"builtin:digits-{shift}",
        "space": "vit",
    }


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits network, inverted": digits,
    "ResNet-20, 500 pictures with gaussian noise 3": resnet20,
    "MobileNetV2, 340 pictures of 17 flowers": flowers,
    **{
        f"digits transformer, {shift}": lambda folder, shift=shift: transformer(folder, shift)
        for shift in ("inverted", "rotated", "noise")
    },
}


class Bench:
    """One task with its engine, prepared as is better for the linear probe."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.engine = setup, setup.engine
        self.rates = setup.space.hyperparameters.lr
        self.budget = parse_budget(setup.settings, setup.backbone)
        self.placer = Placer(setup.backbone, setup.units, setup.space, self.budget)
        self.ended: dict[Any, Progress] = {}

    def probe(self) -> dict[str, Any]:
        """The linear probe, with the preparation that is better for it on validation."""
        statistics = self.engine.statistics()
        tried = []
        for name, buffers in {"off": {}, "on": statistics}.items():
            if name == "on" and not statistics:
                continue
            self.prepare(buffers)
            tried += [(self.value(Plan(), {"lr:head": r}), r, name) for r in self.rates["head"]]
        value, rate, name = max(tried)
        self.prepare(statistics if name == "on" else {})
        self.head = {"lr:head": rate}
        return {**self.five(Plan(), self.head, value), "bnstats": name}

    def prepare(self, buffers: dict[str, torch.Tensor]) -> None:
        self.engine.prepare(buffers)
        self.ended.clear()

    def prepare_as(self, probe: dict[str, Any]) -> None:
        """Prepare the engine as `probe` did when the table was started."""
        self.prepare(self.engine.statistics() if probe["bnstats"] == "on" else {})
        self.head = {"lr:head": probe["hyperparameters"]["lr:head"]}

    def method(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """Best placement and rate on validation, with five seeds; None if no unit takes it."""
        (name,) = entry
        if name not in self.rates:  # the search space of the backbone does not offer it
            return None
        plans = {plan.digest: plan for plan in self.placer.placements(entry) if plan.choices}
        if not plans:
            return None
        rates = sorted(self.rates[name])
        low, middle, high = rates[0], rates[len(rates) // 2], rates[-1]
        tried = [(self.value(p, self.at(name, middle)), p, middle) for p in plans.values()]
        _, best, _ = max(tried, key=lambda one: one[0])
        tried += [(self.value(best, self.at(name, rate)), best, rate) for rate in (low, high)]
        value, plan, rate = max(tried, key=lambda one: one[0])
        return self.five(plan, self.at(name, rate), value)

    def at(self, method: str, rate: float) -> dict[str, float]:
        return {**self.head, f"lr:{method}": rate}

    def value(self, plan: Plan, hyperparameters: dict[str, float]) -> float:
        try:
            return self.run(plan, hyperparameters, 0).value
        except AutotuneError as error:
            print(f"  {plan}: {error}", flush=True)
            return float("-inf")

    def run(self, plan: Plan, hyperparameters: dict[str, float], seed: int) -> Progress:
        key = plan.digest, str(hyperparameters), seed
        if key not in self.ended:
            *_, self.ended[key] = self.engine(Job("benchmark", plan, hyperparameters, seed))
        return self.ended[key]

    def five(self, plan: Plan, hyperparameters: dict[str, float], value: float) -> dict[str, Any]:
        began = time.perf_counter()
        ended = [self.run(plan, hyperparameters, seed) for seed in SEEDS]
        seconds = (time.perf_counter() - began) / (len(SEEDS) - 1)  # the first was run before
        tests = [self.engine.test(last.artifact or b"")["accuracy"] for last in ended]
        cost = self.placer.cost(plan)
        return {
            "plan": str(plan),
            "hyperparameters": hyperparameters,
            "value": value,
            "tests": tests,
            "parameters": cost.parameters,
            "stored": cost.stored,
            "bytes": cost.bytes,
            "seconds": seconds,
            "memory": self.memory(plan),
            "limit": self.budget.limit,
        }

    def memory(self, plan: Plan) -> int:
        """Bytes of tensors that one training step adds at its peak."""
        with self.stepping(plan) as step:
            return peak_of_step(step)

    @contextmanager
    def stepping(self, plan: Plan) -> Iterator[Callable[[], None]]:
        """Function that runs a training step of a plan, already called once for warm-up."""
        engine = self.engine
        size, device = engine.recipe.batch_size, torch.device("cpu")
        inputs, labels = next(batches(engine.task.train, size, input=engine.input, device=device))
        units, network = self.setup.units, self.setup.backbone.network
        with attached(network, units, plan, flow=units.flow) as deltas:
            deltas.train()
            head = network.get_submodule(self.setup.backbone.head)
            head.requires_grad_(True)
            parameters = [*deltas.parameters(), *head.parameters()]
            optimizer = torch.optim.AdamW(parameters, 1e-9)

            def step() -> None:
                logits = network(inputs)
                F.cross_entropy(logits, labels % logits.shape[1]).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            step()
            yield step

    def share_of_full(self, plan: Plan) -> float:
        """Time of a step relative to full fine-tuning; the median of alternating measurements."""
        units = [unit.name for unit in self.setup.units if not unit.is_span()]
        full = Plan(dict.fromkeys(units, Choice.of("subtune", what="all")))
        ratios = []
        for _ in range(TURNS):
            ratios.append(self.seconds(plan) / self.seconds(full))
        return median(ratios)

    def seconds(self, plan: Plan) -> float:
        with self.stepping(plan) as step:
            taken = []
            for _ in range(3):
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
        return median(taken)

    def read_plan(self, text: str, entry: dict[str, Any]) -> Plan:
        """Plan that a row names; the first number in a label is the size."""
        (name, options), *_ = entry.items()
        fixed = {k: v for k, v in options.items() if not isinstance(v, list) and v != "budget"}
        (size,) = options.keys() - fixed.keys() or (None,)
        chosen = {}
        for part in text.split(", "):
            unit, _, label = part.partition("=")
            numbers = [int(word) for word in label.split("-") if word.isdigit()]
            sized = {size: numbers[0] if numbers else 1} if size else {}
            chosen[unit] = make_choice([(name, {**fixed, **sized})])
        return Plan(chosen)


def read_table() -> dict[tuple[str, str], Any]:
    if not TABLE.is_file():
        return {}
    rows = [json.loads(line) for line in TABLE.read_text().splitlines()]
    return {(row["task"], row["method"]): row["found"] for row in rows}


def keep(task: str, method: str, result: Any) -> None:
    with TABLE.open("a") as lines:
        lines.write(json.dumps({"task": task, "method": method, "found": result}) + "\n")


def measure(task: str, methods: list[str], folder: Path) -> None:
    """Measure the rows of a task that are not in the table."""
    missing = [method for method in methods if (task, method) not in read_table()]
    if not missing and (task, "linear probe") in read_table():
        return
    settings = read_settings({**TASKS[task](folder), "device": "cpu", "bnstats": "off"})
    bench = Bench(prepare_search(settings, settings.backbone, settings.task))
    if (task, "linear probe") not in read_table():
        keep(task, "linear probe", bench.probe())
    bench.prepare_as(read_table()[task, "linear probe"])
    for method in missing:
        began = time.perf_counter()
        result = bench.method(METHODS[method])
        keep(task, method, result)
        shown = f"{mean(result['tests']):.4f}  {result['plan']}" if result else "no place"
        print(f"{task}, {method}: {shown}  ({time.perf_counter() - began:.0f} s)", flush=True)


def timed(task: str, methods: list[str], folder: Path) -> None:
    """Time the steps of a task that are not timed."""
    rows, known = read_table(), read_times()
    missing = [m for m in methods if rows.get((task, m)) and (task, m) not in known]
    if not missing:
        return
    settings = read_settings({**TASKS[task](folder), "device": "cpu", "bnstats": "off"})
    bench = Bench(prepare_search(settings, settings.backbone, settings.task))
    for method in missing:
        plan = bench.read_plan(rows[task, method]["plan"], METHODS[method])
        share = bench.share_of_full(plan)
        with TIMES.open("a") as lines:
            lines.write(json.dumps({"task": task, "method": method, "share": share}) + "\n")
        print(f"{task}, {method}: a step takes {share:.2f} of full fine-tuning's", flush=True)


def read_times() -> dict[tuple[str, str], float]:
    lines = TIMES.read_text().splitlines() if TIMES.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["task"], row["method"]): row["share"] for row in rows}


def difference(result: dict[str, Any], probe: dict[str, Any]) -> tuple[float, float]:
    """Mean paired difference to the probe in points, and half the width of its 95 % interval."""
    pairs = zip(result["tests"], probe["tests"], strict=True)
    differences = [100 * (accuracy - baseline) for accuracy, baseline in pairs]
    return mean(differences), T_4 * stdev(differences) / len(differences) ** 0.5


def written(task: str, results: dict[tuple[str, str], Any]) -> str:
    probe, times = results[task, "linear probe"], read_times()
    rows = []
    for method in ("linear probe", *METHODS):
        row = results.get((task, method))
        if row is None:
            continue
        gain, half = difference(row, probe)
        shown = "" if method == "linear probe" else f"{gain:+.1f} ± {half:.1f}"
        numbers = (f"{row[key]:,}" for key in ("parameters", "stored", "bytes"))
        share = times.get((task, method))
        used = ["" if share is None else f"{share:.2f}", f"{row['memory'] / 1e6:.1f}"]
        rows.append([method, spread(row["tests"]), shown, *numbers, *used])
    header = ["method", "test, %", "gain over the probe", "parameters", "stored", "bytes"]
    header += ["step ÷ full fine-tuning's", "step's peak, MB"]
    left_out = [m for m in METHODS if (task, m) in results and results[task, m] is None]
    notes = f"At most {probe['limit']:,} parameters, statistics re-estimated: {probe['bnstats']}."
    if left_out:
        notes += f" Without a placement that fits: {', '.join(left_out)}."
    return f"### {task}\n\n{table(header, rows)}\n\n{notes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-measure", action="store_true", help="fill the table, write nothing")
    parser.add_argument("--only-write", action="store_true", help="write the table as it is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = [task for task in TASKS if any(task.startswith(start) for start in arguments.tasks)]
    if "AUTOTUNE_DATA" not in os.environ:
        left_out = [task for task in tasks if task.startswith(("ResNet", "MobileNet"))]
        tasks = [task for task in tasks if task not in left_out]
        print(f"AUTOTUNE_DATA names no folder, so these are left out: {', '.join(left_out)}")
    if not tasks:
        return
    for task in tasks if not arguments.only_write else ():
        with TemporaryDirectory() as folder:
            measure(task, arguments.methods, Path(folder))
    for task in tasks if not (arguments.only_write or arguments.only_measure) else ():
        with TemporaryDirectory() as folder:
            timed(task, arguments.methods, Path(folder))
    if not arguments.only_measure:
        results = read_table()
        text = "\n\n".join(
            written(task, results) for task in tasks if (task, "linear probe") in results
        )
        write_section("Every method alone at 1 %", text)


if __name__ == "__main__":
    main()
