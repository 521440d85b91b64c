"""A policy that learned on one task starts a search on another; beside one that knows nothing.

    python examples/reuse_policy.py

It reads features of choices and not their places, so the other task may have another backbone,
another space and another budget.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import autotune

BUDGET = "0.25%"


def search(folder: str, shift: str, **settings: object) -> autotune.Study:
    out = Path(folder) / f"{shift}-{len([*Path(folder).iterdir()])}"
    return autotune.search(
        task=f"builtin:digits-{shift}", budget=BUDGET, out=str(out), references=False, **settings
    )


def main(trials: int = 12, **settings: int) -> None:
    with TemporaryDirectory() as folder:
        teacher = search(folder, "rotated", trials=trials, **settings)
        start = {"nothing": None, "what it learned": str(teacher.folder.policy)}
        for name, policy in start.items():
            study = search(folder, "inverted", policy=policy, **settings)
            first, best = study.trials[0], study.best
            print(f"From {name}: first plan {first.value:.3f} on validation ({first.plan}),")
            print(f"  answer {best.value:.3f} on validation, {best.test['accuracy']:.3f} on test")


if __name__ == "__main__":
    main()
