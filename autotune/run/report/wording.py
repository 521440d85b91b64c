"""Formatting of names and values for people."""

from __future__ import annotations

from autotune.study.stages import Final, Spread

NARROW = "\N{NO-BREAK SPACE}"
"""Space between a number and its unit, so that both stay on one line."""

SHOWN = {
    "random search": "random search",
    "probe": "linear probe",
    "uniform": "uniform low rank",
    "random": "random placement",
}
"""First word of a baseline's name, or all of it → display name."""


def shown(name: str) -> str:
    """Display name of a baseline; a remark after the first word is kept."""
    if name in SHOWN:  # "random search" is not a variant of "random"
        return SHOWN[name]
    first, _, rest = name.partition(" ")
    return " ".join(filter(None, (SHOWN.get(first, first), rest)))


def taken(final: Final) -> str:
    """Sentence that the answer is a baseline; empty if it is not."""
    if not final.baseline:
        return ""
    return (
        f"Trial {final.number} is {shown(final.baseline)}, a baseline within the budget: "
        "no other trial is better on validation."
    )


def percent(share: float, digits: int = 1) -> str:
    """A share such as `97.2 %`, with a no-break space."""
    return f"{100 * share:.{digits}f}{NARROW}%"


def over_seeds(spread: Spread | None) -> str:
    """Mean ± standard deviation in percent; empty for fewer than two seeds."""
    if spread is None or len(spread.by_seed) < 2:
        return ""
    return f"{100 * spread.mean:.1f} ± {100 * spread.std:.1f}{NARROW}%"


def count(n: int, word: str, plural: str = "") -> str:
    """A count such as `1 trial` or `3 trials`; `plural` is for irregular plurals."""
    return f"{n:,} {word if n == 1 else plural or word + 's'}"


def duration(seconds: float) -> str:
    """Seconds as `4.2 s`, `42 s`, `7 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
