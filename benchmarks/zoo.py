"""What was trained is what is delivered, on networks of all kinds.

`python zoo.py` examines every network of the tests' collection: families of transformers and timm
with random weights, and small networks with something unusual. A network's row in `tables/` is
kept, so that an interrupted run can be resumed; `--again` starts anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results import table, write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from zoo.families import FAMILIES
from zoo.harness import Case, Outcome, examine
from zoo.odd import ODD

TABLE = Path(__file__).parent / "tables" / "zoo.jsonl"


def rows() -> dict[str, dict[str, Any]]:
    """Network → its row."""
    if not TABLE.is_file():
        return {}
    lines = TABLE.read_text().splitlines()
    return {row["network"]: row for row in map(json.loads, lines)}


def row_of(name: str, case: Case) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        outcome = examine(case)
    except Exception as error:  # a network that stops everything is a row, too
        outcome = Outcome(faults=[f"{type(error).__name__}: {error}"])
    return {"network": name, "seconds": time.perf_counter() - began, **asdict(outcome)}


def difference(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def cells(row: dict[str, Any]) -> list[str]:
    return [
        row["network"],
        str(row["plans"]),
        f"{row['seconds_to_trace']:.1f}",
        f"{100 * max(row['beyond'], 0):.0f}",
        *(difference(row[name]) for name in ("cached", "delivered", "merged")),
        str(len(row["refused"])),
        str(len(row["faults"])),
    ]


def report(examined: dict[str, dict[str, Any]]) -> str:
    header = [
        *("network", "plans", "s to trace", "points beyond depth"),
        *("cached", "delivered", "merged", "refused merges", "faults"),
    ]
    done = list(examined.values())
    faults = [f"- {row['network']}: {fault[:200]}" for row in done for fault in row["faults"]]
    deep = sum(row["beyond"] > 0.05 for row in done)
    return "\n\n".join(
        [
            f"{len(done)} networks. For the empty plan, one unit, all units, and each method once: "
            "the largest difference of the validation loss between training with and without a "
            "cache, between training and the delivered file, and between training and the merged "
            "state dict in a new network of the same class. Every network is compared bit for bit "
            "with what it was, with its buffers, flags, modes and hooks. Points beyond depth: the "
            "share of a forward pass's FLOPs behind the cut, less the share that begins with the "
            f"first tuned module, in percent; above 5 for {deep} networks.",
            table(header, [cells(row) for row in done]),
            "\n".join(faults) or "No faults.",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true")
    if parser.parse_args().again:
        TABLE.unlink(missing_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    known = rows()
    for name, case in {**ODD, **FAMILIES}.items():
        if name not in known:
            row = known[name] = row_of(name, case)
            with TABLE.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(cells(row), row["faults"], flush=True)
    write_section("Networks of all kinds", report(known), packages=("transformers", "timm"))
