"""Kill a search and resume it: finished trials do not run again.

The search runs in a separate process, which this one kills after the first trial.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import autotune


def begin(run: str, epochs: str) -> None:
    """Run the search in the separate process, and print the kind of every event."""
    autotune.search(
        strategy="random",
        trials=3,
        epochs=int(epochs),
        references=False,
        out=run,
        callbacks=[lambda event: print(event.kind, flush=True)],
    )


def states(study: autotune.Study) -> str:
    return ", ".join(f"trial {t.number} {t.state_name}" for t in study.trials)


def main(out: str | None = None, epochs: int = 10) -> None:
    with TemporaryDirectory() as folder:
        run = out or str(Path(folder) / "run")
        command = [sys.executable, __file__, run, str(epochs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.stdout.readline() not in ("end\n", ""):
                pass
            process.kill()
        study = autotune.Study(run)
        print(f"Killed, the search is {study.state}: {states(study)}")

        study = autotune.resume(run)
        print(f"Resumed, it is {study.state}: {states(study)}")
        print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")


if __name__ == "__main__":
    begin(*sys.argv[1:]) if sys.argv[1:] else main()
