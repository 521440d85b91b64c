"""`autotune search` and `autotune resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import AsJson, NamedBackbone, NamedTask, Run, app, show_json
from autotune.cli.options import HOW, NAMES, WHERE, setting

if TYPE_CHECKING:
    from autotune.run.notebook import Study
    from autotune.run.origins import GivenSettings

Quiet = Annotated[bool, typer.Option("--quiet", metavar="", help="No progress, only the result.")]
Timings = Annotated[
    bool, typer.Option("--timings", metavar="", help="Show where the seconds went.")
]
LogJson = Annotated[
    str | None,
    typer.Option(help="Every event as a line of JSON, - for standard output.", metavar="FILE"),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        help="Tell it elsewhere too: tensorboard:DIR, mlflow:URI, wandb:PROJECT. May be repeated.",
        metavar="NAME:WHERE",
    ),
]


@app.command()
def search(
    context: typer.Context,
    backbone: Annotated[str | None, setting("backbone")] = None,
    weights: Annotated[str | None, setting("weights")] = None,
    head: Annotated[str | None, setting("head")] = None,
    keep_head: Annotated[bool | None, setting("keep_head")] = None,
    input: Annotated[str | None, setting("input")] = None,
    task: Annotated[str | None, setting("task")] = None,
    budget: Annotated[str | None, setting("budget")] = None,
    count_head: Annotated[bool | None, setting("count_head")] = None,
    space: Annotated[str | None, setting("space")] = None,
    granularity: Annotated[str | None, setting("granularity")] = None,
    bnstats: Annotated[str | None, setting("bnstats")] = None,
    strategy: Annotated[str | None, setting("strategy")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the strategy, as in: direction=backward. May be repeated.",
            metavar="NAME=VALUE",
            rich_help_panel=HOW,
        ),
    ] = None,
    policy: Annotated[str | None, setting("policy")] = None,
    supernet: Annotated[str | None, setting("supernet")] = None,
    profile: Annotated[str | None, setting("profile")] = None,
    trials: Annotated[int | None, setting("trials")] = None,
    timeout: Annotated[float | None, setting("timeout")] = None,
    epochs: Annotated[int | None, setting("epochs")] = None,
    batch_size: Annotated[int | None, setting("batch_size")] = None,
    augment: Annotated[str | None, setting("augment")] = None,
    views: Annotated[int | None, setting("views")] = None,
    precision: Annotated[str | None, setting("precision")] = None,
    layout: Annotated[str | None, setting("layout")] = None,
    fold: Annotated[bool | None, setting("fold")] = None,
    metric: Annotated[str | None, setting("metric")] = None,
    objective: Annotated[str | None, setting("objective")] = None,
    folds: Annotated[int | None, setting("folds")] = None,
    pruner: Annotated[str | None, setting("pruner")] = None,
    seed: Annotated[int | None, setting("seed")] = None,
    no_references: Annotated[
        bool,
        typer.Option(
            "--no-references",
            metavar="",
            help="Leave out what the result is compared with.",
            rich_help_panel=HOW,
        ),
    ] = False,
    backend: Annotated[str | None, setting("backend")] = None,
    workers: Annotated[int | None, setting("workers")] = None,
    cpus_per_trial: Annotated[float | None, setting("cpus_per_trial")] = None,
    gpus_per_trial: Annotated[float | None, setting("gpus_per_trial")] = None,
    address: Annotated[str | None, setting("address")] = None,
    ship_data: Annotated[bool | None, setting("ship_data")] = None,
    retries: Annotated[int | None, setting("retries")] = None,
    device: Annotated[str | None, setting("device")] = None,
    out: Annotated[str | None, setting("out")] = None,
    storage: Annotated[str | None, setting("storage")] = None,
    keep: Annotated[str | None, setting("keep")] = None,
    disk: Annotated[str | None, setting("disk")] = None,
    cache_memory: Annotated[str | None, setting("cache_memory")] = None,
    cache_disk: Annotated[str | None, setting("cache_disk")] = None,
    cache_dtype: Annotated[str | None, setting("cache_dtype")] = None,
    config: Annotated[
        str | None,
        typer.Option(help="YAML with these settings.", metavar="FILE", rich_help_panel=WHERE),
    ] = None,
    assigned: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            help="A setting over the file's, as epochs=3 or options.direction=backward; may be "
            "repeated. Options override both.",
            metavar="KEY=VALUE",
            rich_help_panel=WHERE,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            metavar="",
            help="Show what would happen and write nothing.",
            rich_help_panel=WHERE,
        ),
    ] = False,
    timings: Timings = False,
    log_json: LogJson = None,
    sink: Sinks = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search where and how to tune a backbone for a task, within a budget.

    Example: autotune search --backbone torchvision:resnet18 --task imagefolder:flowers --budget 1%
    """
    from autotune.errors import ConfigError
    from autotune.run.settings import read_settings

    given, following = _given(context.params), _following(log_json, sink, quiet or as_json)
    if len(budgets := str(given.values.get("budget", "")).split(",")) > 1:
        if dry_run:
            raise ConfigError(f"--dry-run shows one budget, got {len(budgets)}. Give one.")
        first = given.over(given.origins["budget"], {"budget": budgets[0]})
        _search_budgets(budgets, first, following, as_json)
        return
    settings = read_settings(given.values)
    if dry_run:
        _dry_run(settings, following, as_json)
        return
    with following:
        from autotune.session.api import search as run_search

        values = settings.model_dump()
        study = run_search(
            values.pop("backbone"),
            values.pop("task"),
            values.pop("budget"),
            origins=given.origins,
            **values,
        )
    _show_result(study, as_json, timings)


@contextmanager
def _following(
    log_json: str | None, sinks: list[str] | None, quiet: bool, run: Path | None = None
) -> Iterator[None]:
    """Show what happens on the terminal, and tell it to files and services."""
    from autotune.cli.live_progress import watching
    from autotune.run.trackers import told_to

    to_file = [f"json:{log_json}"] if log_json else []
    with told_to([*to_file, *(sinks or ())]), watching(quiet=quiet, run=run):
        yield


def _given(options: Mapping[str, Any]) -> GivenSettings:
    """What the configuration, `-o` and the options give."""
    from autotune.run.origins import ASSIGNED, OPTION, OWN, GivenSettings, read_assigned

    named = {key: v for key, v in options.items() if key in NAMES and v is not None}
    own = {f"{OWN}{name}": value for name, value in map(_pair, options["option"] or ())}
    left_out = {"references": False} if options["no_references"] else {}
    assigned = read_assigned(options["assigned"] or ())
    given = GivenSettings.in_file(options["config"]).over(ASSIGNED, assigned)
    return given.over(OPTION, {**named, **own, **left_out})


def _search_budgets(
    budgets: list[str], given: GivenSettings, following: AbstractContextManager[None], as_json: bool
) -> None:
    from autotune.run.settings import read_settings

    settings = read_settings(given.values)
    with following:
        from autotune.session.api import search_budgets

        values = settings.model_dump(exclude={"budget"})
        backbone, task = values.pop("backbone"), values.pop("task")
        found = search_budgets(budgets, backbone, task, origins=given.origins, **values)
    _show_budgets(found, as_json)


def _show_budgets(found: Mapping[str, Study], as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.budgets import section

    if as_json:
        show_json({budget: study.status() for budget, study in found.items()})
        return
    print_sections([section(found)])


def _pair(text: str) -> tuple[str, str]:
    from autotune.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option takes NAME=VALUE, got {text!r}. As in: direction=backward.")
    return name, value


@app.command()
def resume(
    context: typer.Context,
    run: Run,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="The total, counting those that ran.")
    ] = None,
    timeout: Annotated[float | None, setting("timeout", panel=False)] = None,
    disk: Annotated[str | None, setting("disk", panel=False)] = None,
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    backend: Annotated[str | None, setting("backend")] = None,
    workers: Annotated[int | None, setting("workers")] = None,
    cpus_per_trial: Annotated[float | None, setting("cpus_per_trial")] = None,
    gpus_per_trial: Annotated[float | None, setting("gpus_per_trial")] = None,
    address: Annotated[str | None, setting("address")] = None,
    ship_data: Annotated[bool | None, setting("ship_data")] = None,
    retries: Annotated[int | None, setting("retries")] = None,
    device: Annotated[str | None, setting("device")] = None,
    cache_memory: Annotated[str | None, setting("cache_memory")] = None,
    cache_disk: Annotated[str | None, setting("cache_disk")] = None,
    timings: Timings = False,
    log_json: LogJson = None,
    sink: Sinks = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted search, or with more trials; also elsewhere than it began.

    Example: autotune resume runs/digits --trials 40 --backend ray
    """
    from autotune.study.run_folder import RunFolder

    folder = RunFolder.existing(run).path
    with _following(log_json, sink, quiet or as_json, folder):
        from autotune.session.api import resume as go_on

        beside = {"run", "timings", "log_json", "sink", "quiet", "as_json"}
        study = go_on(run, **{k: v for k, v in context.params.items() if k not in beside})
    _show_result(study, as_json, timings)


def _dry_run(settings: Any, following: AbstractContextManager[None], as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.dry_run import sections

    with following:
        from autotune.session.preview import preview

        values = settings.model_dump()
        found = preview(values.pop("backbone"), values.pop("task"), values.pop("budget"), **values)
    show_json(found.to_json()) if as_json else print_sections(sections(found))


def _show_result(study: Study, as_json: bool, timings: bool) -> None:
    from autotune.cli.results import print_result

    if as_json:
        show_json(study.status())
        return
    print_result(study, timings=timings)
