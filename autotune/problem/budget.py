"""The cost of a choice, and the limit on the cost of a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from autotune.errors import BudgetError


class Measure(Enum):
    """Quantity that a budget limits."""

    PARAMETERS = "parameters"
    BYTES = "bytes"


@dataclass(frozen=True)
class Cost:
    """Number of values that a choice or plan trains and stores. Costs can be added."""

    parameters: int = 0
    """Trainable parameters."""

    stored: int = 0
    """Values in the delta file: trained parameters, indices and buffers."""

    bytes: int = 0
    """Bytes of the stored values, without the file's header."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.stored + other.stored,
            self.bytes + other.bytes,
        )

    def __getitem__(self, measure: Measure) -> int:
        return self.parameters if measure is Measure.PARAMETERS else self.bytes


FORMS = "Write it as 1%, 0.5%, 50k, 1.5M, 2000, 0.5MB or 300kB."
_NUMBER = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) *(?P<suffix>%|k|M|kB|MB)?")
_FACTORS = {None: 1, "k": 10**3, "M": 10**6, "kB": 10**3, "MB": 10**6}


@dataclass(frozen=True)
class Budget:
    """Hard limit on the cost of a plan: a cap, not a target."""

    limit: int
    """Largest cost that fits."""

    total: int
    """Size of the whole backbone in the same measure, without its old head."""

    measure: Measure = Measure.PARAMETERS
    """Quantity that is counted: trainable parameters, or bytes of the delta file's tensors."""

    text: str = ""
    """The budget as the user wrote it."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise BudgetError(
                f"A budget must allow at least 1 of the backbone's {self.total:,} "
                f"{self.measure.value}, got {self.text or self.limit!r}. Raise it."
            )

    @classmethod
    def parse(cls, text: str, total: Cost) -> Budget:
        """Read a text: `1%` (of `total`, the backbone), `50k`, `2000` or `0.5MB` (10^6 bytes).

        Raises `BudgetError` for anything else, for 0, for negatives and for more than 100 %.
        """
        number, suffix = _read(text)
        measure = Measure.BYTES if suffix in ("kB", "MB") else Measure.PARAMETERS
        if suffix == "%":
            limit = int(number * total[measure] / 100)
        else:
            limit = int(number * _FACTORS[suffix])
        return cls(limit=limit, total=total[measure], measure=measure, text=text.strip())

    def fits(self, cost: Cost) -> bool:
        """Whether a plan of this cost may run."""
        return cost[self.measure] <= self.limit


def check_text(text: str) -> str:
    """Return `text` if it can be the budget of a search; else raise `BudgetError`."""
    number, suffix = _read(text)
    if suffix is None and 1 <= number < 2:
        # read literally, it would allow one trained parameter, which no one wants
        raise BudgetError(
            f"A budget of one parameter changes nothing, got {text!r}. "
            f"Write {float(number):g}% for that share of the backbone."
        )
    return text


def largest_first(texts: Sequence[str]) -> list[str]:
    """Sort budgets in the same unit, largest first; `BudgetError` for different units."""
    read = {text.strip(): _read(text) for text in texts}
    kinds = {"%" if suffix == "%" else suffix in ("kB", "MB") for _, suffix in read.values()}
    if len(kinds) > 1:
        raise BudgetError(f"Several budgets must be in one unit, got {', '.join(read)}. {FORMS}")

    def size(text: str) -> Fraction:
        number, suffix = read[text]
        return number * _FACTORS.get(suffix, 1)

    return sorted(read, key=size, reverse=True)


def _read(text: str) -> tuple[Fraction, str | None]:
    written = text.strip()
    if written.startswith("-"):
        raise BudgetError(f"A budget must be positive, got {text!r}. {FORMS}")
    match = _NUMBER.fullmatch(written)
    if match is None:
        raise BudgetError(f"A budget is a number with an optional unit, got {text!r}. {FORMS}")
    number, suffix = Fraction(match["number"]), match["suffix"]
    if number == 0:
        raise BudgetError(f"A budget must be more than zero, got {text!r}. {FORMS}")
    if suffix == "%" and number > 100:
        raise BudgetError(f"A budget is at most 100 % of the backbone, got {text!r}. {FORMS}")
    return number, suffix
