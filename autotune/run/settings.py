"""Settings of a search: read, checked all at once, and written so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from autotune.errors import BudgetError, ConfigError, brief, unknown
from autotune.problem.budget import check_text
from autotune.problem.job import ATTEMPTS, EPOCHS
from autotune.problem.search_space import SearchSpace, problems, read_space
from autotune.run.setting_description import Panel, SettingDescription, describe, setting
from autotune.run.yaml_text import parse_yaml, to_yaml, to_yaml_line
from autotune.study.strategies import load_strategy
from autotune.utils.colors import WHITE, opaque_rgb
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.backbones.inputs import InputDescription

PRICES = ("cost", "bytes", "latency", "memory")
"""Second objectives, minimised in addition to the metric."""

OBJECT = "object"
"""Name of a backbone or task that was given as a Python object."""

FORMER_NAMES = {"fold": "fuse_batchnorm"}
"""Former name → setting; still read in files, calls, options and stored studies."""

LARGEST = 10**9
"""Largest number of a setting: larger ones do not fit into the numbers of databases and tensors."""

Count = Annotated[int, Field(ge=1, le=LARGEST)]

NamedFunction = Annotated[
    str | Callable[..., Any],
    PlainSerializer(lambda factory: factory if isinstance(factory, str) else OBJECT),
    WithJsonSchema({"type": "string"}),
]
"""`MODULE-or-FILE:FUNCTION`, or a function, which is stored as `OBJECT`."""

_tuned = partial(setting, Panel.TUNED)
_trained = partial(setting, Panel.TRAINED)
_placed = partial(setting, Panel.PLACED)


class Settings(BaseModel):
    """Settings of one search, as in `config.yaml`, named like the command-line options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = _tuned(
        "builtin:digits",
        "Pretrained network: builtin:digits, torchvision:NAME or python:MODULE-or-FILE:FUNCTION.",
        metavar="SOURCE",
    )
    weights: str | None = _tuned(
        None, "Weights of the backbone: a .safetensors or .pth file.", metavar="FILE"
    )
    head: str | None = _tuned(
        None, "Name of the head, e.g. classifier.1, if it is not the last layer.", metavar="PATH"
    )
    head_factory: NamedFunction | None = _tuned(
        None,
        "Function that makes heads, of the number of classes or of the former head and the number, "
        "if the head cannot be copied.",
        metavar="FILE:FUNCTION",
    )
    keep_head: bool = _tuned(False, "Start from the pretrained head where its shape fits.")
    input: str | None = _tuned(
        None,
        "YAML file that describes the input: size, channels, mean and std, or shape and dtype.",
        metavar="FILE",
    )
    task: str = _tuned(
        "builtin:digits",
        "Data set: builtin:digits, imagefolder:DIR, npz:FILE or python:MODULE-or-FILE:FUNCTION.",
        metavar="SOURCE",
    )
    background_color: str = _tuned(
        WHITE,
        "Colour behind transparent images: a name, or hexadecimal such as '#808080'.",
        metavar="COLOR",
    )
    skip_bad: bool = _tuned(
        False, "Leave out images and rows that cannot be read, instead of refusing the data."
    )
    skip_unlabelled: bool = _tuned(
        False, "Leave out examples without a label (-1, -100, None), instead of refusing the data."
    )
    group: Count | None = _tuned(
        None,
        "For imagefolder:, level of folders below the class whose images stay in one part; 1 for "
        "CLASS/GROUP/IMAGE.",
        metavar="LEVEL",
    )
    budget: str = _tuned(
        "1%",
        "Maximum trainable parameters (1%, 0.5%, 50k, 1.5M, 2000) or delta file size (0.5MB, "
        "300kB).",
        metavar="LIMIT",
    )
    count_head: bool = _tuned(False, "Count the head against the budget.")
    space: str | None = _tuned(
        None,
        "Name of a search space, or a YAML file. Default: the space of the backbone's family.",
        metavar="SPACE",
    )
    exclude: str | None = _tuned(
        None,
        "Regular expression for the start of names of parameters that are never changed, e.g. "
        r"'embeddings|encoder\.layers\.0\.'.",
        metavar="PATTERN",
    )
    unfreeze: bool = _tuned(
        False, "Offer parameters that the network has frozen (requires_grad=False), too."
    )
    granularity: Literal["block", "layer"] = _tuned(
        "block", "Smallest part of the network that a plan decides on: {values}."
    )
    bnstats: Literal["auto", "on", "off"] = _tuned(
        "auto", "Re-estimate batch norm statistics on the training inputs: {values}."
    )
    strategy: str = _trained(
        "policy",
        "Strategy that proposes plans: {values}.",
        values="policy proxy greedy tpe gp nsga2 qmc random bruteforce".split(),
    )
    options: dict[str, Any] = _trained(
        {},
        "Strategy options, e.g. direction=backward for greedy.",
        metavar="NAME=VALUE",
    )
    policy: str | None = _trained(
        None,
        "Policy network to start from: policy.safetensors of another search.",
        metavar="FILE",
    )
    supernet: str | None = _trained(
        None,
        "Reuse the supernet measurements of another run that was trained in the same way.",
        metavar="RUN",
    )
    profile: str | None = _trained(
        None,
        "Start from the trials of a profile that was trained in the same way.",
        metavar="RUN",
    )
    trials: Count = _trained(20, "Maximum number of trials. Default: depends on the strategy.")
    timeout: Annotated[float, Field(gt=0, le=LARGEST)] | None = _trained(
        None, "Start no new trial after this many seconds.", metavar="SECONDS"
    )
    epochs: Count = _trained(EPOCHS, "Epochs per trial.")
    batch_size: Count = _trained(32, "Examples per training step.")
    augment: Literal["none", "flip", "crop+flip"] = _trained(
        "none", "Augmentation of training inputs: {values}."
    )
    views: Annotated[int, Field(ge=0, le=LARGEST)] = _trained(
        0, "Augmented views to precompute per input; 0 augments anew every epoch."
    )
    precision: Literal["auto", "float32", "bfloat16"] = _trained(
        "auto",
        "Precision of the forward pass: {values}; auto is bfloat16 on a GPU, float32 on the CPU.",
    )
    layout: Literal["auto", "contiguous", "channels_last"] = _trained(
        "auto",
        "Memory layout of images: {values}; auto is channels_last, often faster, on a GPU.",
    )
    fuse_batchnorm: bool = _trained(
        False, "Fuse frozen batch norm into the convolution before it: faster, rounds differently."
    )
    metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc"] = _trained(
        "accuracy", "Metric to maximise: {values}."
    )
    objective: str | None = _trained(
        None,
        "Find the Pareto front of two objectives: METRIC,cost (or bytes, latency, memory).",
        metavar="METRIC,PRICE",
    )
    folds: Annotated[int, Field(ge=0, le=LARGEST)] = _trained(
        0, "Cross-validation folds per plan; 0 for a single validation split."
    )
    pruner: str = _trained(
        "auto",
        "Pruner that stops trials early: {values}.",
        values="auto race halving hyperband forecast median wilcoxon none".split(),
    )
    seed: Annotated[int, Field(ge=0, lt=2**32 - 2)] = _trained(
        0, "Random seed of splits, plans and training."
    )
    references: bool = _trained(True, "Train the baselines that the result is compared with.")
    backend: Literal["auto", "inline", "processes", "ray"] = _placed(
        "auto",
        "Backend that runs trials: {values}; auto is inline (this process) for one worker, else "
        "processes.",
        is_movable=True,
    )
    workers: Count | None = _placed(
        None,
        "Concurrent trials. Default: 1; on Ray, as many as the cluster fits.",
        is_movable=True,
    )
    cpus_per_trial: Annotated[float, Field(gt=0, le=LARGEST)] | None = _placed(
        None, "On Ray: CPUs, and thus threads, per trial. Default: 1.", is_movable=True
    )
    gpus_per_trial: Annotated[float, Field(ge=0, le=LARGEST)] | None = _placed(
        None,
        "GPUs per trial, at most 1; 0.25 runs four trials on each GPU. Default: 1 if there is a "
        "GPU.",
        is_movable=True,
    )
    address: str | None = _placed(
        None,
        "Ray cluster: auto (that of RAY_ADDRESS or ray start, else a local one), local, HOST:PORT "
        "or ray://HOST:10001.",
        metavar="ADDRESS",
        is_movable=True,
    )
    ship_data: bool = _placed(
        False, "On Ray: send image files to nodes that lack them.", is_movable=True
    )
    retries: Annotated[int, Field(ge=0, le=LARGEST)] = _placed(
        ATTEMPTS - 1,
        "Maximum number of times that a trial is resumed after its worker died.",
        is_movable=True,
    )
    device: str = _placed(
        "auto",
        "Device to run networks on: auto, cpu, cuda, cuda:1.",
        metavar="DEVICE",
        is_movable=True,
    )
    out: str | None = _placed(None, "Run folder to create. Default: runs/TASK.", metavar="DIR")
    storage: str | None = _placed(
        None, "Optuna storage to use instead of the database in the run folder.", metavar="URL"
    )
    keep: Literal["best", "all"] = _placed(
        "best", "Delta files to keep: {values}; best keeps those of the five best trials."
    )
    disk: str | None = _placed(
        None,
        "Disk quota for trial files, e.g. 2GB; the best delta is always kept.",
        metavar="SIZE",
    )
    cache_memory: str = _placed(
        "2GB",
        "Memory cache for outputs of frozen layers, shared by trials, e.g. 2GB; 0 disables it.",
        metavar="SIZE",
        is_movable=True,
    )
    cache_disk: str = _placed(
        "10GB",
        "Disk cache for outputs of frozen layers, e.g. 10GB; used if memory is full or workers "
        "share it.",
        metavar="SIZE",
        is_movable=True,
    )
    cache_dtype: Literal["float32", "bfloat16"] = _placed(
        "float32", "Data type of cached outputs: {values}; bfloat16 halves the space, but rounds."
    )

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, values: Any) -> Any:
        """Replace paths by their text."""
        paths = {name: fspath(v) for name, v in values.items() if isinstance(v, PathLike)}
        return {**values, **paths}

    @model_validator(mode="before")
    @classmethod
    def _trials(cls, values: Any) -> Any:
        """Replace an unset number of trials by the default of the strategy."""
        if values.get("trials") is not None:
            return values
        values = {name: value for name, value in values.items() if name != "trials"}
        strategy = values.get("strategy", cls.model_fields["strategy"].default)
        if not isinstance(strategy, str):
            return values  # reported later, with all other invalid values
        usual = load_strategy(strategy).default_trials
        return values if usual is None else {**values, "trials": usual}

    @model_validator(mode="after")
    def _objective(self) -> Settings:
        """Refuse an objective other than the metric and one of `PRICES`."""
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
        """Refuse combinations of settings that the backend or augmentation does not support."""
        if self.backend == "inline" and (self.workers or 1) > 1:
            raise ValueError("inline is one worker; leave --workers out, or use processes or ray")
        if self.backend != "ray":
            named = {"address": self.address, "cpus_per_trial": self.cpus_per_trial}
            named["ship_data"] = self.ship_data or None
            if misplaced := [name for name, value in named.items() if value is not None]:
                raise ValueError(f"{misplaced[0]} is for the backend ray; give --backend ray")
        if self.views and self.augment == "none":
            raise ValueError("views are of augmented inputs; give --augment, or leave --views out")
        return self

    @property
    def has_objects(self) -> bool:
        """Whether the search began from Python objects, which no command can load."""
        return OBJECT in (self.backbone, self.task, self.head_factory)

    @property
    def where(self) -> str:
        """Resolved backend: for `auto`, `inline` with one worker and `processes` with several."""
        if self.backend != "auto":
            return self.backend
        return "inline" if self.workers in (None, 1) else "processes"

    @property
    def n_workers(self) -> int:
        """Concurrent trials that strategies plan for. Default: 1; on Ray, 2."""
        return self.workers or (2 if self.backend == "ray" else 1)

    @property
    def disk_bytes(self) -> int | None:
        """Disk quota in bytes."""
        return None if self.disk is None else parse_bytes(self.disk)

    @property
    def cache_bytes(self) -> tuple[int, int]:
        """Sizes of the caches for outputs of frozen layers, in bytes: memory and disk."""
        sizes = self.cache_memory, self.cache_disk
        memory, disk = (0 if text == "0" else parse_bytes(text) for text in sizes)
        return memory, disk

    @property
    def most_trials(self) -> int | None:
        """Maximum number of trials; None if the strategy ends on its own."""
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

    @field_validator("background_color")
    @classmethod
    def _background_color(cls, color: str) -> str:
        opaque_rgb(color)
        return color

    @field_validator("disk")
    @classmethod
    def _disk(cls, text: str | None) -> str | None:
        if text is not None:
            parse_bytes(text)
        return text

    @field_validator("cache_memory", "cache_disk", mode="before")
    @classmethod
    def _cache(cls, size: Any) -> str:
        text = str(size)
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
    """Parse `500kB`, `300MB` or `2GB` into bytes; raise `ValueError` for anything else."""
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    number, unit = text[:-2].strip(), text[-2:].lower()
    try:
        size = int(float(number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"a size is written 500kB, 300MB or 2GB, got {text!r}")
    return size


@cache
def descriptions() -> Mapping[str, SettingDescription]:
    """Return setting → description, in the order in which they are shown."""
    return describe(Settings)


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` under current names; `ConfigError` if a setting has both of its names."""
    for former, name in FORMER_NAMES.items():
        if former in values and name in values:
            raise ConfigError(
                f"A setting is given once; {former!r} is the former name of {name!r}, and both "
                f"are given. Leave {former!r} out."
            )
    return {FORMER_NAMES.get(key, key): value for key, value in values.items()}


def read_settings(values: dict[str, Any], *, file: str | None = None) -> Settings:
    """Read settings from a YAML file and `values`, which win; `ConfigError` lists all problems."""
    stored = read_mapping(file, "configuration") if file else {}
    values = {**current_names(stored), **current_names(values)}
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
    """Return YAML that `read_settings` reads back."""
    return to_yaml(settings.model_dump())


def write_line(name: str, value: Any) -> str:
    """Return a setting as one line of YAML."""
    flow = isinstance(value, dict)
    text = to_yaml_line(value if flow else {name: value}, flow=flow)
    return f"{name}: {text.rstrip()}" if flow else text.rstrip()


def space_folder() -> Path:
    """Folder of the packaged search spaces: in an installed package, next to it in a clone."""
    package = Path(__file__).parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def space_names() -> tuple[str, ...]:
    """Names of the packaged search spaces."""
    return tuple(sorted(path.stem for path in space_folder().glob("*.yaml")))


def load_space(name: str) -> SearchSpace:
    """Load a packaged search space by name, or one from a YAML file."""
    if Path(name).suffix in (".yaml", ".yml"):
        return read_space(read_mapping(name, "space"), source=name)
    Registry("search space", dict.fromkeys(space_names(), "")).check(name)
    return read_space(read_mapping(space_folder() / f"{name}.yaml", "space"), source=name)


def load_input(file: str | None) -> InputDescription | None:
    """Load the input description in a YAML or JSON file."""
    from autotune.backbones.inputs import read_input

    if file is None:
        return None
    content = read_mapping(file, "input")
    if "background" in content:
        raise ConfigError(
            f"The background of images is a setting, {file!r} has one. Give --background-color."
        )
    return read_input(content, source=file)


def read_mapping(file: str | Path, what: str) -> dict[str, Any]:
    """Read a YAML mapping; `ConfigError` if the file is missing or not a mapping."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"A {what} file must exist, {str(path)!r} does not. Check the path.")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"A {what} file must be YAML, {str(path)!r} is not ({_reason(error)})."
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"A {what} file must be a mapping of keys, {str(path)!r} is not.")
    return data


def read_value(text: str, where: str) -> Any:
    """Parse a value as YAML."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"A value must be YAML, that of {brief(where)} is not ({_reason(error)}). Quote it."
        ) from error


def _reason(error: Exception) -> str:
    return brief(" ".join(str(error).split()))
