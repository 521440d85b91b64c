"""Settings of a search: read, checked all at once, and written so that a run can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotune.backbones.inputs import InputDescription, read_input
from autotune.budget import check_text
from autotune.errors import BudgetError, ConfigError, SpaceError, unknown
from autotune.registry import Registry
from autotune.space import SearchSpace, problems, read_space

TRIALS = {"policy": 3, "proxy": 1, "greedy": 1000, "bruteforce": 1000, "profile": 1000}
"""Trials where none are asked for. The policy and proxies confirm a plan and its nearest rivals;
greedy, brute force and profiles end by themselves."""

ENDING = ("greedy", "bruteforce", "profile")

PRICES = ("cost", "bytes", "latency", "memory")
"""What may be minimised beside the metric."""

Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """One search, as `config.yaml` has it; the names are those of the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = "builtin:digits"
    weights: str | None = None
    head: str | None = None
    keep_head: bool = False
    input: str | None = None
    task: str = "builtin:digits"
    budget: str = "1%"
    count_head: bool = False
    space: str | None = None
    granularity: Literal["block", "layer"] = "block"
    bnstats: Literal["auto", "on", "off"] = "auto"
    strategy: str = "policy"
    policy: str | None = None
    profile: str | None = None
    supernet: str | None = None
    options: dict[str, Any] = {}
    trials: Count = 20
    timeout: Annotated[float, Field(gt=0)] | None = None
    epochs: Count = 10
    batch_size: Count = 32
    augment: Literal["none", "flip", "crop+flip"] = "none"
    metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc"] = "accuracy"
    objective: str | None = None
    folds: Annotated[int, Field(ge=0)] = 0
    pruner: str = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32 - 2)] = 0
    workers: Count = 1
    device: str = "auto"
    out: str | None = None
    storage: str | None = None
    keep: Literal["best", "all"] = "best"
    references: bool = True

    @model_validator(mode="before")
    @classmethod
    def _trials(cls, given: Any) -> Any:
        """As many as suit the strategy, unless a number is asked for."""
        usual = TRIALS.get(given.get("strategy", "policy"))
        if given.get("trials") is None and usual is not None:
            return {**given, "trials": usual}
        return {key: value for key, value in given.items() if key != "trials" or value is not None}

    @model_validator(mode="after")
    def _objective(self) -> Settings:
        """The metric, and maybe what is minimised beside it."""
        if self.objective is None:
            return self
        first, _, second = self.objective.partition(",")
        if first != self.metric or second not in PRICES:
            raise ValueError(
                f"objective must be {self.metric} and one of {', '.join(PRICES)}, as in "
                f"{self.metric},cost, got {self.objective!r}"
            )
        return self

    @property
    def most_trials(self) -> int | None:
        """How many trials there will be at most; None where the strategy ends by itself."""
        ends = self.strategy in ENDING and self.trials == TRIALS[self.strategy]
        return None if ends else self.trials

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, text: Any) -> Any:
        try:
            return check_text(str(text))
        except BudgetError as error:
            raise ValueError(str(error)) from error

    @field_validator("folds")
    @classmethod
    def _folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to train on; use 2 or more, or 0 for none")
        return folds


def read_settings(given: dict[str, Any], *, file: str | None = None) -> Settings:
    """Settings from a YAML file, overridden by `given`; `ConfigError` lists every problem."""
    values = {**(_mapping(Path(file), "configuration") if file else {}), **given}
    for key in values:
        if key not in Settings.model_fields:
            raise ConfigError(unknown("setting", str(key), Settings.model_fields))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        if len(error.errors()) == 1 and error.errors()[0]["loc"] == ("budget",):
            raise BudgetError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        raise ConfigError(f"Settings must be valid: {problems(error)}.") from error


def write_settings(settings: Settings) -> str:
    """The YAML that `read_settings` reads back."""
    text: str = yaml.safe_dump(settings.model_dump(), sort_keys=False)
    return text


def space_folder() -> Path:
    """Where the packaged search spaces are: inside an installed package, beside it in a clone."""
    inside = Path(__file__).parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "search_spaces"


def space_names() -> tuple[str, ...]:
    """Names of the packaged search spaces."""
    return tuple(sorted(path.stem for path in space_folder().glob("*.yaml")))


def load_space(name: str) -> SearchSpace:
    """A packaged search space by name, or a YAML file of the user's."""
    if name in space_names():
        return read_space(_mapping(space_folder() / f"{name}.yaml", "space"), source=name)
    if Path(name).suffix in (".yaml", ".yml"):
        return read_space(_mapping(Path(name), "space"), source=name)
    Registry("search space", dict.fromkeys(space_names(), "")).check(name)
    raise SpaceError(f"There is no search space {name!r}.")


def load_input(file: str | None) -> InputDescription | None:
    """The input description in a YAML or JSON file."""
    return None if file is None else read_input(_mapping(Path(file), "input"), source=file)


def _mapping(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"A {what} file must exist, {str(path)!r} does not. Check the path.")
    try:
        data = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"A {what} file must be YAML, {str(path)!r} is not ({reason})."
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"A {what} file must be a mapping of keys, {str(path)!r} is none.")
    return data
