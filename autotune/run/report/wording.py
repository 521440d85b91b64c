"""Names and values as they are shown to people."""

from __future__ import annotations

from autotune.study.stages import Final, Spread

NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, which stay on one line."""

SHOWN = {
    "random search": "random search",
    "probe": "linear probe",
    "uniform": "uniform low rank",
    "random": "random placement",
}


def shown(name: str) -> str:
    """A baseline as people call it."""
    if name in SHOWN:
        return SHOWN[name]
    first, _, rest = name.partition(" ")
    return " ".join(filter(None, (SHOWN.get(first, first), rest)))


def taken(final: Final) -> str:
    """A sentence where the answer is a baseline; empty otherwise."""
    if not final.baseline:
        return ""
    return (
        f"Trial {final.number} is {shown(final.baseline)}, a baseline within the budget: "
        "no other trial is better on validation."
    )


def percent(share: float, digits: int = 1) -> str:
    """`97.2 %`, which no line breaks."""
    return f"{100 * share:.{digits}f}{NARROW}%"


def over_seeds(spread: Spread | None) -> str:
    """Mean ± standard deviation in percent where there are several seeds; empty otherwise."""
    if spread is None or len(spread.by_seed) < 2:
        return ""
    return f"{100 * spread.mean:.1f} ± {100 * spread.std:.1f}{NARROW}%"


def count(n: int, word: str, plural: str = "") -> str:
    """`1 trial`, `3 trials`; words with an irregular plural name it."""
    return f"{n:,} {word if n == 1 else plural or word + 's'}"


def duration(seconds: float) -> str:
    """`42 s`, `7 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
