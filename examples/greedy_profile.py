"""Profile of units that are tuned alone, and a greedy search that starts from these trials.

Follows SubTuning (arXiv 2302.06354), but with a low-rank change instead of the whole unit. The
figure of the profile is `profile.html` in the folder of the first search.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import autotune


def search(runs: Path, strategy: str, **settings: object) -> autotune.Study:
    return autotune.search(
        task="builtin:digits-rotated",
        budget="2%",
        space=str(Path(__file__).with_name("one_choice.yaml")),
        strategy=strategy,
        out=str(runs / strategy),
        **settings,
    )


def main(out: str | None = None, **settings: int) -> None:
    with TemporaryDirectory() as folder:
        runs = Path(out or folder)
        alone = search(runs, "profile", **settings)
        for row in alone.profile:
            print(
                f"{row.unit or 'the head alone':15} {row.mean:.3f}, {row.parameters:,} parameters"
            )
        alone.plot_profile().write_html(alone.folder.path / "profile.html")

        study = search(runs, "greedy", profile=str(alone.folder.path), **settings)
        for trial in study.trials[len(alone.trials) :]:
            print(f"{trial.value:.3f} {trial.plan}")
        print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
