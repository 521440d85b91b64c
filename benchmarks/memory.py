"""Peak training memory and step time of every method against full fine-tuning, at batch 16, 224².

Each method runs in a separate process, with random weights and 1 % of the parameters spread evenly.
Reported are the largest resident memory minus that after the imports, which includes weights,
gradients, moments and activations, and the median step time. The table under `tables/` is kept, so
that an interrupted run can be resumed; delete it to measure again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

TABLE = Path(__file__).parent / "tables" / "memory.jsonl"
NETWORKS = {"ViT-B/16": "vit_b_16", "ResNet-50": "resnet50"}
FULL, PROBE = "full fine-tuning", "linear probe"
METHODS: dict[str, dict[str, Any]] = {
    FULL: {},
    PROBE: {},
    "subtune norms": {"subtune": {"what": "norms"}},
    "scale": {"scale": {}},
    "lowrank": {"lowrank": {"rank": [1, 2, 4]}},
    "xs": {"xs": {"rank": [8, 16, 32]}},
    "reparam times": {"reparam": {"form": "times", "rank": [1, 2, 4]}},
    "sparse": {"sparse": {"k": "budget", "by": "random"}},
    "res_adapter": {"res_adapter": {"width": "budget"}},
    "res_prefix": {"res_prefix": {"length": "budget"}},
    "res_prompt": {"res_prompt": {"length": "budget"}},
    "skip": {"skip": {"width": "budget"}},
    "side": {"side": {"width": "budget"}},
    "bypass": {"bypass": {"width": "budget"}},
}


def measured(network: str, method: str, steps: int, batch: int) -> dict[str, Any] | None:
    """Peak bytes, seconds per step and trained parameters; None if no unit takes the method."""
    import torch
    from placing import Placer
    from torch.nn import functional as F

    from autotune.deltas.attach import attached
    from autotune.problem.plan import Choice, Plan
    from autotune.run.settings import read_settings
    from autotune.session.costing import parse_budget
    from autotune.session.sources import find_backbone, find_choices
    from autotune.utils.peak_memory import peak_memory

    before = peak_memory()
    settings = read_settings({"backbone": f"torchvision:{network}", "weights": "none"})
    backbone = find_backbone(settings, settings.backbone)
    space, units = find_choices(settings, backbone, backbone.input)
    placer = Placer(backbone, units, space, parse_budget(settings, backbone))
    plan = Plan()
    if method == FULL:
        names = [unit.name for unit in units if not unit.is_span()]
        plan = Plan(dict.fromkeys(names, Choice.of("subtune", what="all")))
    elif method != PROBE:
        (name,) = METHODS[method]
        places = placer.places(METHODS[method]) if name in space.hyperparameters.lr else []
        if not places:
            return None
        spread = places[-1:] if method in ("side", "bypass") else places
        plan = placer.even(spread, METHODS[method])
    inputs, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch)
    seconds = []
    with attached(backbone.network, units, plan, flow=units.flow) as deltas:
        deltas.train()
        head = backbone.network.get_submodule(backbone.head).requires_grad_(True)
        trained = [*deltas.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(trained, 1e-6)
        for _ in range(steps):
            began = time.perf_counter()
            F.cross_entropy(backbone.network(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - began)
        return {
            "bytes": peak_memory() - before,
            "seconds": median(seconds[1:]),
            "parameters": deltas.cost().parameters,
            "plan": str(plan),
        }


def in_own_process(network: str, method: str, steps: int, batch: int) -> dict[str, Any] | None:
    """Row of the table; it is measured in a new process and added if it is missing."""
    lines = TABLE.read_text().splitlines() if TABLE.is_file() else []
    for row in map(json.loads, lines):
        if (row["network"], row["method"], row["batch"]) == (network, method, batch):
            return row["found"]
    command = [sys.executable, __file__, "--one", network, method]
    command += ["--steps", str(steps), "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    with TABLE.open("a") as table:
        row = {"network": network, "method": method, "batch": batch, "found": measured}
        table.write(json.dumps(row) + "\n")
    return measured


def rows_of(network: str, steps: int, batch: int) -> list[list[str]]:
    full, rows = in_own_process(network, FULL, steps, batch), []
    assert full is not None
    for method in METHODS:
        measured = full if method == FULL else in_own_process(network, method, steps, batch)
        if measured is None:
            rows.append([method, "no place", "", "", "", ""])
            continue
        less = 100 * (1 - measured["bytes"] / full["bytes"])
        rows.append(
            [
                method,
                f"{measured['parameters']:,}",
                f"{measured['bytes'] / 2**20:,.0f}",
                f"{less:.0f} %",
                f"{measured['seconds']:.2f}",
                f"{measured['seconds'] / full['seconds']:.2f}",
            ]
        )
        print(network, rows[-1], flush=True)
    return rows


def main() -> None:
    from results import table, write_section

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="the first is not timed")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "METHOD"), help="one, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(*arguments.one, arguments.steps, arguments.batch)))
        return
    header = ["method", "parameters", "peak, MiB", "less than full", "s per step", "of full"]
    parts = [
        f"### {name}\n\n{table(header, rows_of(network, arguments.steps, arguments.batch))}"
        for name, network in NETWORKS.items()
    ]
    title = f"Memory and step time at batch {arguments.batch}, 224²"
    write_section(title, "\n\n".join(parts))


if __name__ == "__main__":
    main()
