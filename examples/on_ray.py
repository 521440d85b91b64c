"""Run a search on a Ray cluster: a local one, or the one at an address.

python examples/on_ray.py                    # two workers on this machine
python examples/on_ray.py ray://head:10001   # a running cluster; needs ray[client]
"""

import sys

import autotune


def main(address: str = "local", out: str | None = None, **settings: int) -> None:
    study = autotune.search(
        budget="1%",
        strategy="random",
        backend="ray",
        address=address,
        workers=2,
        out=out,
        **settings,
    )
    for trial in study.trials:
        print(f"Trial {trial.number}: {trial.state_name}, {trial.value}, {trial.plan}")
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
