"""Drivers and workers killed at random moments, again and again, on every backend; what is lost.

`python kill_loop.py --kills 20`. The loop is that of the tests, which make three kills each.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from results import table, write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from study.kill_loop import kill_loop

BACKENDS = ("processes", "ray")
WORKERS, TRIALS = 2, 60


def loops(kills: int, backends: list[str]) -> str:
    rows, faults = [], []
    for backend in backends:
        seed = random.SystemRandom().randrange(10**6)
        with TemporaryDirectory() as at:
            kills = kill_loop(
                Path(at) / "run", backend, workers=WORKERS, trials=TRIALS, kills=kills, seed=seed
            )
        victims = Counter(kills.kills)
        faults += [f"{backend}, seed {seed}: {fault}" for fault in kills.faults]
        rows.append(
            [
                backend,
                str(victims["driver"]),
                str(victims["worker"]),
                str(kills.starts),
                str(len(kills.faults)),
                f"{kills.seconds:.0f}",
                str(seed),
            ]
        )
        print(rows[-1], kills.faults, flush=True)
    header = ["backend", "drivers killed", "workers killed", "starts", "faults", "seconds", "seed"]
    return (
        f"{TRIALS} trials on {WORKERS} workers, kill -9 at random moments. A fault: a number that "
        "is missing or twice, an ended trial that was lost or started again, a progress that went "
        "back, a lease that was left. The engine counts its starts in a file of its own.\n\n"
        + table(header, rows)
        + "".join(f"\n- {fault}" for fault in faults)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", default=list(BACKENDS))
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    write_section("Kill loop", loops(arguments.kills, arguments.backends))


if __name__ == "__main__":
    main()
