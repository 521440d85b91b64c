"""Faults after drivers and workers are killed repeatedly at random moments, on every backend.

`python kill_loop.py --kills 20`. The tests run the same loop with three kills.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from kills import measure_kills, with_faults

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from study.kill_loop import kill_loop

BACKENDS = ("processes", "ray")
WORKERS, TRIALS = 2, 60


def loops(kills: int, backends: list[str]) -> str:
    rows, faults = [], []
    for backend in backends:
        seed = random.SystemRandom().randrange(10**6)
        with TemporaryDirectory() as at:
            result = kill_loop(
                Path(at) / "run", backend, workers=WORKERS, trials=TRIALS, kills=kills, seed=seed
            )
        victims = Counter(result.kills)
        faults += [f"{backend}, seed {seed}: {fault}" for fault in result.faults]
        rows.append(
            [
                backend,
                str(victims["driver"]),
                str(victims["worker"]),
                str(result.starts),
                str(len(result.faults)),
                f"{result.seconds:.0f}",
                str(seed),
            ]
        )
        print(rows[-1], result.faults, flush=True)
    header = ["backend", "drivers killed", "workers killed", "starts", "faults", "seconds", "seed"]
    text = (
        f"{TRIALS} trials on {WORKERS} workers, kill -9 at random moments. Faults are missing or "
        "duplicate trial numbers, ended trials that were lost or started again, progress that went "
        "back, and a lease that was left. The engine counts its starts in a separate file."
    )
    return with_faults(text, header, rows, faults)


if __name__ == "__main__":
    measure_kills("Kill loop", __doc__.splitlines()[0], loops, backends=BACKENDS, kills=20)
