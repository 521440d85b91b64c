"""Two ways to choose, with as many trials each: a learned policy, and chance.

The policy trains all choices together first, which takes time of its own; so the time is told, too.
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
            print(f"  test {best.test['accuracy']:.3f} by {best.cost.parameters:,} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
