"""A first search from Python: choose which layers of the digits network to change, under 1 %."""

import sys

import autotune


def main(out: str | None = None, **settings: int) -> None:
    study = autotune.search(
        backbone="builtin:digits", task="builtin:digits", budget="1%", out=out, **settings
    )
    print(f"Plan: {study.best.plan}")
    print(f"It trains {study.best.cost.parameters:,} of {study.problem.budget.total:,} parameters.")
    print(f"Validation {study.best.value:.3f}, test {study.best.test['accuracy']:.3f}")
    for name, baseline in study.baselines.items():
        print(f"  {name}: test {baseline.test['accuracy']:.3f}")

    backbone = autotune.load_backbone("builtin:digits")
    tuned = autotune.load_adapted(backbone, study.best.artifact)
    print(f"{type(tuned).__name__} with the delta attached; autotune.detach removes it again.")
    autotune.detach(tuned)


if __name__ == "__main__":
    main(*sys.argv[1:])
