"""Search spaces: how a family of networks is cut into units, and the choices of each unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from autotune.errors import SpaceError, brief
from autotune.problem.plan import Option
from autotune.utils.patterns import compile_pattern

TREE: Literal["tree"] = "tree"
BUDGET = "budget"
"""Value of an option whose sizes are computed from the budget."""

MAX_CHOICES = 10_000
"""Most choices per unit. The largest space has about a hundred; each is built and costed."""

Patterns = Annotated[dict[str, str], Field(min_length=1)]
Options = dict[str, Option | list[Option]]
Rates = Annotated[list[PositiveFloat], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UnitPatterns(_Strict):
    """Layer-group table, like timm's `group_matcher`: pattern's name → regular expression.

    A pattern is matched at the start of parameter names; the first that matches decides. Its
    first group names the unit; without a group the unit has the pattern's name. The word `tree`
    instead of a table takes units from the network's module tree.
    """

    block: Patterns | Literal["tree"]
    layer: Patterns | Literal["tree"]
    stage: Patterns | Literal["tree"] = TREE
    """Stages, which become spans, in the same form; a parameter may be in no stage."""

    @field_validator("block", "layer", "stage")
    @classmethod
    def _compiles(cls, patterns: Any) -> Any:
        for name, pattern in patterns.items() if patterns != TREE else ():
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"pattern {name!r} is no regular expression: {error}") from error
        return patterns


class Hyperparameters(_Strict):
    """Grids of the training hyperparameters that are searched together with the plan."""

    lr: dict[str, Rates]
    """Method, or `head` → learning rates, usually in half-decades (0.001, 0.003, 0.01)."""

    weight_decay: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.0]
    """AdamW's decay of matrices and kernels; norms, biases and gates never decay."""


class SearchSpace(_Strict):
    """Units, choices and hyperparameters of one family of networks."""

    family: str
    units: UnitPatterns
    choices: Annotated[
        list[Annotated[dict[str, Options], Field(min_length=1)]], Field(min_length=1)
    ]
    """Each entry is a method with lists of option values, or several methods that are combined.

    The value `budget` stands for three sizes: the largest within the whole budget, a half and a
    quarter of it.
    """

    hyperparameters: Hyperparameters
    exclude: list[str] = []
    """Regular expressions, matched at the start of names of parameters that are never changed."""

    notes: str = ""

    @field_validator("choices")
    @classmethod
    def _are_few(cls, choices: Any) -> Any:
        n = sum(prod(len(_listed(o)) for o in _values(entry)) for entry in choices)
        if n > MAX_CHOICES:
            raise ValueError(f"at most {MAX_CHOICES:,} combinations of options, these are {n:.0e}")
        return choices

    def combinations(self) -> list[list[tuple[str, dict[str, Option]]]]:
        """Every choice as (method, options) pairs: the product of an entry's option lists."""
        return [chosen for entry in self.choices for chosen in _expand(entry)]


def read_space(data: object, *, source: str) -> SearchSpace:
    """Validate `data` as a search space; `SpaceError` names `source` and lists every problem."""
    if not isinstance(data, Mapping):
        raise SpaceError(f"A search space must be a mapping with 'family', ..., {source} is not.")
    try:
        return SearchSpace.model_validate(data)
    except ValidationError as error:
        raise SpaceError(f"{source} is no search space: {problems(error)}.") from error


def problems(error: ValidationError) -> str:
    """Every problem that pydantic found, on one line."""
    return "; ".join(f"{_place(e['loc'])}: {_described(e)}" for e in error.errors())


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(top level)"


def _described(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "this key is not known"
    if error["type"] == "missing":
        return "this key is missing"
    return f"{error['msg'].removeprefix('Value error, ')} (got {_shown(error['input'])})"


def _shown(value: Any) -> str:
    try:
        return brief(repr(value))
    except (ValueError, RecursionError):  # thousands of digits, or a value that contains itself
        return f"a value of type {type(value).__name__}"


def _expand(entry: dict[str, Options]) -> list[list[tuple[str, dict[str, Option]]]]:
    per_method = [[(name, chosen) for chosen in _options(o)] for name, o in entry.items()]
    return [list(chosen) for chosen in product(*per_method)]


def _values(entry: dict[str, Options]) -> Iterator[Option | list[Option]]:
    return (value for options in entry.values() for value in options.values())


def _listed(value: Option | list[Option]) -> list[Option]:
    return value if isinstance(value, list) else [value]


def _options(options: Options) -> list[dict[str, Option]]:
    lists = [_listed(value) for value in options.values()]
    return [dict(zip(options, values, strict=True)) for values in product(*lists)]
