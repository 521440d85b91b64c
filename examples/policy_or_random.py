"""Compare two strategies with the same number of trials: a learned policy and random search.

The policy first trains all choices together, so the time of training is printed, too.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import autotune


def main(out: str | None = None, trials: int = 3, **settings: int) -> None:
    with TemporaryDirectory() as folder:
        for strategy in ("policy", "random"):
            study = autotune.search(
                task="builtin:digits-noise",
                budget="1%",
                strategy=strategy,
                trials=trials,
                references=False,
                out=str(Path(out or folder) / strategy),
                **settings,
            )
            best = study.best
            print(f"{strategy}: {trials} trials, {study.training_seconds:.0f} s of training")
            print(f"  {best.plan}")
            print(f"  test {best.test['accuracy']:.3f} with {best.cost.parameters:,} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
