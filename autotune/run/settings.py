"""Settings of a search: read, checked all at once, and written so that a run can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotune.errors import BudgetError, ConfigError, SpaceError, unknown
from autotune.problem.budget import check_text
from autotune.problem.job import ATTEMPTS
from autotune.problem.search_space import SearchSpace, problems, read_space
from autotune.study.strategies import load_strategy
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.backbones.inputs import InputDescription

PRICES = ("cost", "bytes", "latency", "memory")
"""What may be minimised beside the metric."""

OBJECT = "object"
"""The name of a backbone or task that was given as a Python object."""

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
    views: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    fold: bool = False
    metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc"] = "accuracy"
    objective: str | None = None
    folds: Annotated[int, Field(ge=0)] = 0
    pruner: str = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32 - 2)] = 0
    backend: Literal["auto", "inline", "processes", "ray"] = "auto"
    workers: Count | None = None
    cpus_per_trial: Annotated[float, Field(gt=0)] | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    address: str | None = None
    ship_data: bool = False
    retries: Annotated[int, Field(ge=0)] = ATTEMPTS - 1
    device: str = "auto"
    out: str | None = None
    storage: str | None = None
    keep: Literal["best", "all"] = "best"
    disk: str | None = None
    cache_memory: str = "2GB"
    cache_disk: str = "10GB"
    cache_dtype: Literal["float32", "bfloat16"] = "float32"
    references: bool = True

    @model_validator(mode="before")
    @classmethod
    def _trials(cls, given: Any) -> Any:
        """As many as suit the strategy, unless a number is asked for."""
        if given.get("trials") is not None:
            return given
        values = {name: value for name, value in given.items() if name != "trials"}
        strategy = given.get("strategy", cls.model_fields["strategy"].default)
        if not isinstance(strategy, str):
            return values  # refused with all else that is wrong
        usual = load_strategy(strategy).default_trials
        return values if usual is None else {**values, "trials": usual}

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

    @model_validator(mode="after")
    def _where(self) -> Settings:
        """What only some backends understand."""
        if self.backend == "inline" and (self.workers or 1) > 1:
            raise ValueError("inline is one worker; leave --workers out, or use processes or ray")
        if self.backend != "ray":
            named = {"address": self.address, "cpus_per_trial": self.cpus_per_trial}
            named["ship_data"] = self.ship_data or None
            if strange := [name for name, value in named.items() if value is not None]:
                raise ValueError(f"{strange[0]} is for the backend ray; give --backend ray")
        if self.views and self.augment == "none":
            raise ValueError("views are of augmented inputs; give --augment, or leave --views out")
        if (gpus := self.gpus_per_trial or 0) > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_trial is a part of one GPU or a whole number, got {gpus}")
        return self

    @property
    def where(self) -> str:
        """The backend: the driver's own process for one worker, unless another is asked for."""
        if self.backend != "auto":
            return self.backend
        return "inline" if self.workers in (None, 1) else "processes"

    @property
    def n_workers(self) -> int:
        """Trials at once that strategies plan for; on Ray at least two, where nothing is said."""
        return self.workers or (2 if self.backend == "ray" else 1)

    @property
    def disk_bytes(self) -> int | None:
        """The quota in bytes."""
        return None if self.disk is None else parse_bytes(self.disk)

    @property
    def cache_bytes(self) -> tuple[int, int]:
        """What is kept of the frozen network's values: in memory, and in files."""
        sizes = self.cache_memory, self.cache_disk
        memory, disk = (0 if text == "0" else parse_bytes(text) for text in sizes)
        return memory, disk

    @property
    def most_trials(self) -> int | None:
        """How many trials there will be at most; None where the strategy ends by itself."""
        strategy = load_strategy(self.strategy)
        ends = strategy.ends_by_itself and self.trials == strategy.default_trials
        return None if ends else self.trials

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, text: Any) -> Any:
        try:
            return check_text(str(text))
        except BudgetError as error:
            raise ValueError(str(error)) from error

    @field_validator("disk")
    @classmethod
    def _disk(cls, text: str | None) -> str | None:
        if text is not None:
            parse_bytes(text)
        return text

    @field_validator("cache_memory", "cache_disk", mode="before")
    @classmethod
    def _cache(cls, given: Any) -> str:
        text = str(given)
        if text != "0":
            parse_bytes(text)
        return text

    @field_validator("folds")
    @classmethod
    def _folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to train on; use 2 or more, or 0 for none")
        return folds


def parse_bytes(text: str) -> int:
    """Bytes in `500kB`, `300MB`, `2GB`; `ValueError` for anything else."""
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    number, unit = text[:-2].strip(), text[-2:].lower()
    try:
        size = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"a size is written 500kB, 300MB or 2GB, got {text!r}")
    return size


def read_settings(given: dict[str, Any], *, file: str | None = None) -> Settings:
    """Settings from a YAML file, overridden by `given`; `ConfigError` lists every problem."""
    values = {**(read_mapping(file, "configuration") if file else {}), **given}
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


def write_line(name: str, value: Any) -> str:
    """A setting as YAML on one line."""
    flow = isinstance(value, dict)
    told: str = yaml.safe_dump(
        value if flow else {name: value}, default_flow_style=flow, allow_unicode=True, width=10**6
    )
    return f"{name}: {told.rstrip()}" if flow else told.rstrip()


def space_folder() -> Path:
    """Where the packaged search spaces are: inside an installed package, beside it in a clone."""
    inside = Path(__file__).parent.parent.parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "search_spaces"


def space_names() -> tuple[str, ...]:
    """Names of the packaged search spaces."""
    return tuple(sorted(path.stem for path in space_folder().glob("*.yaml")))


def load_space(name: str) -> SearchSpace:
    """A packaged search space by name, or a YAML file of the user's."""
    if name in space_names():
        return read_space(read_mapping(space_folder() / f"{name}.yaml", "space"), source=name)
    if Path(name).suffix in (".yaml", ".yml"):
        return read_space(read_mapping(name, "space"), source=name)
    Registry("search space", dict.fromkeys(space_names(), "")).check(name)
    raise SpaceError(f"There is no search space {name!r}.")


def load_input(file: str | None) -> InputDescription | None:
    """The input description in a YAML or JSON file."""
    from autotune.backbones.inputs import read_input

    return None if file is None else read_input(read_mapping(file, "input"), source=file)


def read_mapping(file: str | Path, what: str) -> dict[str, Any]:
    """The keys of a YAML file; `ConfigError` says what it must be otherwise."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"A {what} file must exist, {str(path)!r} does not. Check the path.")
    try:
        data = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"A {what} file must be YAML, {str(path)!r} is not ({_reason(error)})."
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"A {what} file must be a mapping of keys, {str(path)!r} is none.")
    return data


def read_value(text: str, where: str) -> Any:
    """A value as it would stand in a YAML file."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"A value must be YAML, that of {where} is not ({_reason(error)}). Quote it."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
