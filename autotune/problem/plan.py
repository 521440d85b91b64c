"""Changes to a network: methods with options, one choice per unit, a plan over all units."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from autotune.errors import PlanError
from autotune.utils.table import Table

PLAN_FORMAT = 1

Option = int | float | str | bool


@dataclass(frozen=True)
class Method:
    """A method of changing a unit, with its options in the order that the method declares."""

    name: str
    options: tuple[tuple[str, Option], ...] = ()

    @property
    def label(self) -> str:
        return "-".join([self.name, *(_text(value) for _, value in self.options)])

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "options": dict(self.options)}


@dataclass(frozen=True)
class Choice:
    """The methods of one unit in the method table's order; no methods means frozen."""

    methods: tuple[Method, ...] = ()

    @classmethod
    def of(cls, name: str, **options: Option) -> Choice:
        """Choice of a single method by its name: `Choice.of("lowrank", rank=4)`."""
        return cls((Method(name, tuple(options.items())),))

    def __add__(self, other: Choice) -> Choice:
        return Choice(self.methods + other.methods)

    @property
    def label(self) -> str:
        """Written form: `frozen`, `lowrank-4`, `subtune-norms+lowrank-2`."""
        return "+".join(method.label for method in self.methods) or "frozen"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the methods, without options."""
        return tuple(method.name for method in self.methods)

    def is_frozen(self) -> bool:
        """Whether the unit is left unchanged."""
        return not self.methods


FROZEN = Choice()


@dataclass(frozen=True)
class Plan:
    """Unit → choice. Frozen units are dropped, so plans that do the same compare as equal."""

    choices: Mapping[str, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {unit: c for unit, c in sorted(self.choices.items()) if not c.is_frozen()}
        object.__setattr__(self, "choices", MappingProxyType(kept))

    def __getitem__(self, unit: str) -> Choice:
        return self.choices.get(unit, FROZEN)

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Plan, (dict(self.choices),))

    def __str__(self) -> str:
        return ", ".join(f"{unit}={c.label}" for unit, c in self.choices.items()) or "(empty plan)"

    def _repr_html_(self) -> str:
        """Table of the changed units and their choices, for notebooks."""
        rows = [(unit, choice.label) for unit, choice in self.choices.items()]
        return Table.of(("unit", "choice"), rows).to_html() if rows else "<p>(empty plan)</p>"

    def methods(self) -> tuple[str, ...]:
        """Names of all methods in the plan, each once, sorted."""
        return tuple(sorted({name for choice in self.choices.values() for name in choice.names}))

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the canonical JSON's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Canonical JSON: sorted units, no spaces, no frozen units."""
        units = {unit: [m.to_json() for m in c.methods] for unit, c in self.choices.items()}
        return json.dumps({"format": PLAN_FORMAT, "units": units}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a text that `to_json` wrote; `PlanError` for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != PLAN_FORMAT:
                raise PlanError(
                    f"A plan must have format {PLAN_FORMAT}, got {data['format']!r}. "
                    "Update autotune."
                )
            return cls({unit: _choice(methods) for unit, methods in data["units"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"Not a plan: {text[:80]!r}. It must be JSON with 'units'.") from error


def _choice(methods: Any) -> Choice:
    if not isinstance(methods, list):
        raise TypeError("the methods of a unit are a list")
    return Choice(tuple(_method(**method) for method in methods))


def _method(name: Any, options: dict[str, Any]) -> Method:
    if not isinstance(name, str) or not all(isinstance(v, Option) for v in options.values()):
        raise TypeError("a method has a name, and options that are numbers or words")
    return Method(name, tuple(options.items()))


def _text(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
