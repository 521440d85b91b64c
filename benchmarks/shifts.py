"""Fine-tuning profile of the digits under four shifts: each unit alone, over three seeds.

Writes the README's figure. Existing run folders are resumed, so that it can be interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import table, write_section

import autotune
from autotune.study.selection.unit_profiles import ProfileRow

SHIFTS = ("contrast", "noise", "inverted", "rotated")
CHOICE = "lowrank-2"
FIGURE = Path(__file__).parent.parent / "docs" / "profile.svg"


def profiled(shift: str, folder: Path, seeds: int) -> list[ProfileRow]:
    out = folder / shift
    if (out / "config.yaml").is_file():
        return autotune.resume(out).profile
    options = {"choices": CHOICE, "seeds": seeds}
    study = autotune.search(
        task=f"builtin:digits-{shift}",
        budget="100%",
        strategy="profile",
        options=options,
        references=False,
        bnstats="on",
        out=str(out),
    )
    return study.profile


def draw(profiles: dict[str, list[ProfileRow]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "autotune"
    figure, axes = plt.subplots(1, len(profiles), figsize=(11, 3), sharex=True)
    for axis, (shift, rows) in zip(axes, profiles.items(), strict=True):
        tuned = [row for row in rows if row.unit]
        empty = next(row for row in rows if not row.unit)
        means = [100 * row.mean for row in tuned]
        deviations = [100 * row.std for row in tuned]
        axis.errorbar(range(len(tuned)), means, deviations, marker="o", capsize=2)
        best = max(range(len(tuned)), key=lambda i, means=means: means[i])
        axis.plot(best, means[best], "o", color="tab:red", zorder=3)
        axis.axhline(100 * empty.mean, color="gray", linestyle=":", linewidth=1)
        axis.set_title(shift)
        axis.set_xticks(range(len(tuned)), [row.unit for row in tuned], rotation=90)
    axes[0].set_ylabel("accuracy on validation, %")
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "profiles")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    profiles = {shift: profiled(shift, arguments.out, arguments.seeds) for shift in SHIFTS}
    draw(profiles)
    units = [row.unit for row in profiles[SHIFTS[0]]]
    rows = []
    for unit in units:
        cells = [next(r for r in profiles[shift] if r.unit == unit) for shift in SHIFTS]
        name = unit or "the head alone"
        rows.append([name, *(f"{100 * r.mean:.1f} ± {100 * r.std:.1f}" for r in cells)])
    best = {
        shift: max((r for r in rows if r.unit), key=lambda r: r.mean).unit
        for shift, rows in profiles.items()
    }
    text = (
        f"Accuracy on validation, %, of `{CHOICE}` in one unit alone, "
        f"over {arguments.seeds} seeds. "
        f"Best units: {', '.join(f'{unit} ({shift})' for shift, unit in best.items())}.\n\n"
        "![Each unit alone](../docs/profile.svg)\n\n"
    )
    write_section("Profile of the digits", text + table(["unit", *SHIFTS], rows))


if __name__ == "__main__":
    main()
