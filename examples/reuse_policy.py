"""Start a search from a policy that was trained on another task, and compare it with a new policy.

    python examples/reuse_policy.py

A policy reads features of choices, not their positions, so the other task may have another
backbone, search space and budget.
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
        start = {"a new policy": None, "a trained policy": str(teacher.folder.policy)}
        for name, policy in start.items():
            study = search(folder, "inverted", policy=policy, **settings)
            first, best = study.trials[0], study.best
            print(f"From {name}: first plan {first.value:.3f} on validation ({first.plan}),")
            print(f"  answer {best.value:.3f} on validation, {best.test['accuracy']:.3f} on test")


if __name__ == "__main__":
    main()
