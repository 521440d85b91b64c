"""`autotune search` and `autotune resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import (
    AsJson,
    NamedBackbone,
    NamedHeadFactory,
    NamedStorage,
    NamedTask,
    Run,
    app,
    show_json,
)
from autotune.cli.options import (
    SettingOptions,
    SettingValues,
    all_settings,
    movable_settings,
    with_settings,
)
from autotune.run.setting_description import Panel

if TYPE_CHECKING:
    from autotune.run.notebook import Study
    from autotune.run.origins import GivenSettings

PLACED = Panel.PLACED.value

Quiet = Annotated[bool, typer.Option("--quiet", metavar="", help="Print only the result.")]
Timings = Annotated[
    bool, typer.Option("--timings", metavar="", help="Show how long each part took.")
]
LogJson = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Log events as lines of JSON; - for standard output."),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        help="Also log to tensorboard:DIR, mlflow:URI or wandb:PROJECT. May be repeated.",
        metavar="NAME:WHERE",
    ),
]


@app.command()
@with_settings
def search(
    options: Annotated[SettingValues, all_settings()],
    config: Annotated[
        str | None,
        typer.Option(help="YAML file with these settings.", metavar="FILE", rich_help_panel=PLACED),
    ] = None,
    assigned: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            help="Override a setting of the file, e.g. epochs=3 or options.direction=backward. "
            "Options override both. May be repeated.",
            metavar="KEY=VALUE",
            rich_help_panel=PLACED,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            metavar="",
            help="Show what the search would do, without writing anything.",
            rich_help_panel=PLACED,
        ),
    ] = False,
    timings: Timings = False,
    log_json: LogJson = None,
    sink: Sinks = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search for the layers to fine-tune, and how, within a budget of trainable parameters.

    Example: autotune search --backbone torchvision:resnet18 --task imagefolder:flowers --budget 1%
    """
    from autotune.errors import ConfigError
    from autotune.run.settings import read_settings

    chosen = _chosen(options, config, assigned)
    following = _following(log_json, sink, quiet or as_json)
    if len(budgets := str(chosen.values.get("budget", "")).split(",")) > 1:
        if dry_run:
            raise ConfigError(f"--dry-run needs one budget, got {len(budgets)}. Pass one.")
        first = chosen.over(chosen.origins["budget"], {"budget": budgets[0]})
        _search_budgets(budgets, first, following, as_json)
        return
    settings = read_settings(chosen.values)
    if dry_run:
        _dry_run(settings, following, as_json)
        return
    with following:
        from autotune.session.api import search as run_search

        study = run_search(**settings.model_dump(), origins=chosen.origins)
    _show_result(study, as_json, timings)


@contextmanager
def _following(
    log_json: str | None, sinks: list[str] | None, quiet: bool, run: Path | None = None
) -> Iterator[None]:
    """Show progress on the terminal and send events to files and tracking services."""
    from autotune.cli.live_progress import watching
    from autotune.run.trackers import told_to

    to_file = [f"json:{log_json}"] if log_json else []
    with told_to([*to_file, *(sinks or ())]), watching(quiet=quiet, run=run):
        yield


def _chosen(
    options: SettingValues, config: str | None, assigned: list[str] | None
) -> GivenSettings:
    """Merge the settings of the configuration file, `-o` and the options, in this order."""
    from autotune.run.origins import ASSIGNED, OPTION, GivenSettings, read_assigned

    chosen = GivenSettings.in_file(config).over(ASSIGNED, read_assigned(assigned or ()))
    return chosen.over(OPTION, options)


def _search_budgets(
    budgets: list[str],
    chosen: GivenSettings,
    following: AbstractContextManager[None],
    as_json: bool,
) -> None:
    from autotune.run.settings import read_settings

    settings = read_settings(chosen.values)
    with following:
        from autotune.session.api import search_budgets

        values = settings.model_dump(exclude={"budget"})
        studies = search_budgets(budgets, **values, origins=chosen.origins)
    _show_budgets(studies, as_json)


def _show_budgets(studies: Mapping[str, Study], as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.budgets import section

    if as_json:
        show_json({budget: study.status() for budget, study in studies.items()})
        return
    print_sections([section(studies)])


@app.command()
@with_settings
def resume(
    *,
    run: Run,
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", help="Total number of trials, including those that ran."),
    ] = None,
    limits: Annotated[SettingValues, SettingOptions(("timeout", "disk"), has_panels=False)],
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    head_factory: NamedHeadFactory = None,
    storage: NamedStorage = None,
    places: Annotated[SettingValues, movable_settings()],
    timings: Timings = False,
    log_json: LogJson = None,
    sink: Sinks = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Resume an interrupted search or add trials, also on another backend or machine.

    Example: autotune resume runs/digits --trials 40 --backend ray
    """
    from autotune.study.run_folder import RunFolder

    folder = RunFolder.existing(run).path
    with _following(log_json, sink, quiet or as_json, folder):
        from autotune.session.api import resume as resume_search

        study = resume_search(
            run,
            backbone,
            task,
            head_factory=head_factory,
            storage=storage,
            trials=trials,
            **limits,
            **places,
        )
    _show_result(study, as_json, timings)


def _dry_run(settings: Any, following: AbstractContextManager[None], as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.dry_run import sections

    with following:
        from autotune.session.preview import preview

        values = settings.model_dump()
        sources = [values.pop(name) for name in ("backbone", "task", "budget")]
        planned = preview(*sources, **values)
    show_json(planned.to_json()) if as_json else print_sections(sections(planned))


def _show_result(study: Study, as_json: bool, timings: bool) -> None:
    from autotune.cli.results import print_result

    if as_json:
        show_json(study.status())
        return
    print_result(study, timings=timings)
