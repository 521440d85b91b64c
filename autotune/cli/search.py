"""`autotune search` and `autotune resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import AsJson, NamedBackbone, NamedTask, app, show_json

if TYPE_CHECKING:
    from autotune.api import Study

What = Annotated[str | None, typer.Option(metavar="SOURCE")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]
_WHAT, _HOW, _WHERE = "What is tuned", "How it is searched and trained", "Where it runs and writes"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def _where(*names: str, help: str, metavar: str | None = None) -> Any:
    return _option(*names, help=help, panel=_WHERE, metavar=metavar)


Backend = Annotated[
    str | None,
    _where(
        "--backend",
        help="inline, processes (of this machine) or ray; by itself inline for one worker.",
    ),
]
Workers = Annotated[
    int | None, _where("--workers", help="Trials at once; on Ray as many as fit, if not said.")
]
Cpus = Annotated[
    float | None,
    _where("--cpus-per-trial", help="On Ray; also its threads. 1 by itself.", metavar="N"),
]
Gpus = Annotated[
    float | None,
    _where(
        "--gpus-per-trial",
        help="0.25 puts four trials on a GPU; 1 by itself, where there is one.",
        metavar="N",
    ),
]
Address = Annotated[
    str | None,
    _where(
        "--address",
        help="Of a Ray cluster: auto (one that runs here, else a local one), local, HOST:PORT, "
        "ray://HOST:10001.",
    ),
]
ShipData = Annotated[
    bool | None,
    _where("--ship-data", help="On Ray: send picture files to the nodes that lack them."),
]
Retries = Annotated[
    int | None,
    _where(
        "--retries", help="How often a trial whose worker died goes on in another; 2 by itself."
    ),
]
Disk = Annotated[
    str | None,
    _where(
        "--disk",
        help="Most that the files of trials may take, as 2GB; the best one always stays.",
        metavar="SIZE",
    ),
]
Timings = Annotated[bool, _where("--timings", help="Show where the seconds went.")]
CacheMemory = Annotated[
    str | None,
    _where(
        "--cache-memory",
        help="For what the frozen part computes, which trials share; 2GB by itself, 0 for none.",
        metavar="SIZE",
    ),
]
CacheDisk = Annotated[
    str | None,
    _where(
        "--cache-disk",
        help="What does not fit there, or is for several workers, in files; 10GB by itself.",
        metavar="SIZE",
    ),
]


@app.command()
def search(
    context: typer.Context,
    backbone: Annotated[
        str | None,
        _option(
            "--backbone",
            help="builtin:digits, torchvision:NAME or python:MODULE-or-FILE:FUNCTION.",
            panel=_WHAT,
            metavar="SOURCE",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        _option("--weights", help="A .safetensors or .pth file.", panel=_WHAT, metavar="FILE"),
    ] = None,
    head: Annotated[
        str | None,
        _option(
            "--head", help="The task layer, if it is not the last.", panel=_WHAT, metavar="PATH"
        ),
    ] = None,
    keep_head: Annotated[
        bool | None,
        _option("--keep-head", help="Start from the old head where it fits.", panel=_WHAT),
    ] = None,
    input: Annotated[
        str | None,
        _option(
            "--input",
            help="YAML with size, channels, mean, std (or shape, dtype).",
            panel=_WHAT,
            metavar="FILE",
        ),
    ] = None,
    task: Annotated[
        str | None,
        _option(
            "--task",
            help="builtin:digits, imagefolder:DIR, npz:FILE or python:…:FUNCTION.",
            panel=_WHAT,
            metavar="SOURCE",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        _option(
            "--budget",
            help="1%, 0.5%, 50k, 1.5M, 2000 parameters; 0.5MB, 300kB of delta file.",
            panel=_WHAT,
            metavar="LIMIT",
        ),
    ] = None,
    count_head: Annotated[
        bool | None, _option("--count-head", help="The task's head counts too.", panel=_WHAT)
    ] = None,
    space: Annotated[
        str | None,
        _option(
            "--space", help="A search space by name, or a YAML file.", panel=_WHAT, metavar="SPACE"
        ),
    ] = None,
    granularity: Annotated[
        str | None, _option("--granularity", help="Units: block or layer.", panel=_WHAT)
    ] = None,
    bnstats: Annotated[
        str | None,
        _option(
            "--bnstats", help="Re-estimate normalisation statistics: auto, on, off.", panel=_WHAT
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        _option(
            "--strategy",
            help="Who proposes plans: policy, greedy, tpe, gp, nsga2, qmc, random, bruteforce.",
            panel=_HOW,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        _option(
            "--option",
            help="Of the strategy, as in: direction=backward. May be repeated.",
            panel=_HOW,
            metavar="NAME=VALUE",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        _option(
            "--policy",
            help="Start from what another search learned.",
            panel=_HOW,
            metavar="FILE",
        ),
    ] = None,
    supernet: Annotated[
        str | None,
        _option(
            "--supernet",
            help="Use what the supernet of a run of the same training measured.",
            panel=_HOW,
            metavar="RUN",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        _option(
            "--profile",
            help="Begin with the trials of a profile of the same training.",
            panel=_HOW,
            metavar="RUN",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        _option("--trials", help="How many plans at most; 3 for policy.", panel=_HOW),
    ] = None,
    timeout: Annotated[
        float | None,
        _option(
            "--timeout", help="No new trial after so many seconds.", panel=_HOW, metavar="SECONDS"
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("--epochs", help="Epochs of a trial.", panel=_HOW)
    ] = None,
    batch_size: Annotated[
        int | None, _option("--batch-size", help="Examples a step.", panel=_HOW)
    ] = None,
    augment: Annotated[
        str | None, _option("--augment", help="In training: none, flip, crop+flip.", panel=_HOW)
    ] = None,
    views: Annotated[
        int | None,
        _option(
            "--views",
            help="So many augmented views of each input, which can be kept; a new one each epoch "
            "by itself.",
            panel=_HOW,
            metavar="N",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        _option(
            "--precision",
            help="float32 or bfloat16; by itself bfloat16 on a GPU, float32 on the CPU.",
            panel=_HOW,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        _option(
            "--layout",
            help="Of pictures: contiguous, or channels_last, often faster; by itself so on a GPU.",
            panel=_HOW,
        ),
    ] = None,
    fold: Annotated[
        bool | None,
        _option(
            "--fold",
            help="Frozen normalisation becomes part of the convolution before it: faster, rounds.",
            panel=_HOW,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        _option(
            "--metric", help="accuracy, balanced_accuracy, f1 or auroc is maximised.", panel=_HOW
        ),
    ] = None,
    objective: Annotated[
        str | None,
        _option(
            "--objective",
            help="accuracy,cost (or bytes, latency, memory): the front of both.",
            panel=_HOW,
        ),
    ] = None,
    folds: Annotated[
        int | None, _option("--folds", help="Score plans by so many folds.", panel=_HOW)
    ] = None,
    pruner: Annotated[
        str | None,
        _option(
            "--pruner",
            help="What ends trials early: race, halving, hyperband, forecast, median, wilcoxon, "
            "none.",
            panel=_HOW,
        ),
    ] = None,
    seed: Annotated[
        int | None, _option("--seed", help="Of splits, plans and training.", panel=_HOW)
    ] = None,
    no_references: Annotated[
        bool | None,
        _option("--no-references", help="Leave out what the result is compared with.", panel=_HOW),
    ] = None,
    backend: Backend = None,
    workers: Workers = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    address: Address = None,
    ship_data: ShipData = None,
    retries: Retries = None,
    device: Annotated[
        str | None, _option("--device", help="auto, cpu, cuda, cuda:1 …", panel=_WHERE)
    ] = None,
    out: Annotated[
        str | None, _option("--out", help="A new run folder.", panel=_WHERE, metavar="DIR")
    ] = None,
    storage: Annotated[
        str | None,
        _option(
            "--storage",
            help="An Optuna storage instead of the folder's.",
            panel=_WHERE,
            metavar="URL",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        _option("--keep", help="Delta files of the best five trials, or all.", panel=_WHERE),
    ] = None,
    disk: Disk = None,
    cache_memory: CacheMemory = None,
    cache_disk: CacheDisk = None,
    cache_dtype: Annotated[
        str | None,
        _where("--cache-dtype", help="float32, exact; or bfloat16, which takes half and rounds."),
    ] = None,
    config: Annotated[
        str | None,
        _option(
            "--config",
            help="YAML with these settings; options override it.",
            panel=_WHERE,
            metavar="FILE",
        ),
    ] = None,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Show what would happen and write nothing.", panel=_WHERE)
    ] = False,
    timings: Timings = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search where and how to tune a backbone for a task, within a budget.

    Example: autotune search --backbone torchvision:resnet18 --task imagefolder:flowers --budget 1%
    """
    from autotune.cli.live import watching
    from autotune.config import read_settings

    beside = {"config", "dry_run", "timings", "quiet", "as_json", "option", "no_references"}
    given = {k: v for k, v in context.params.items() if k not in beside and v is not None}
    if option:
        given["options"] = dict(_pair(text) for text in option)
    if no_references:
        given["references"] = False
    if len(budgets := str(given.get("budget", "")).split(",")) > 1:
        _search_budgets(budgets, {**given, "budget": budgets[0]}, config, quiet, as_json)
        return
    settings = read_settings(given, file=config)
    with watching(settings.most_trials, quiet=quiet or as_json):
        if dry_run:
            _dry_run(settings, as_json)
            return
        from autotune.api import search as run_search

        values = settings.model_dump()
        study = run_search(
            values.pop("backbone"), values.pop("task"), values.pop("budget"), **values
        )
    _show_result(study, as_json, timings)


def _search_budgets(
    budgets: list[str], given: dict[str, Any], config: str | None, quiet: bool, as_json: bool
) -> None:
    from autotune.cli.live import watching
    from autotune.config import read_settings

    settings = read_settings(given, file=config)
    with watching(settings.most_trials, quiet=quiet or as_json):
        from autotune.api import search_budgets

        values = settings.model_dump(exclude={"budget"})
        found = search_budgets(budgets, values.pop("backbone"), values.pop("task"), **values)
    from autotune.cli.tables import print_budgets

    told = {budget: study.status() for budget, study in found.items()}
    show_json(told) if as_json else print_budgets(told)


def _pair(text: str) -> tuple[str, str]:
    from autotune.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option takes NAME=VALUE, got {text!r}. As in: direction=backward.")
    return name, value


@app.command()
def resume(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run folder.")],
    trials: Annotated[int | None, typer.Option(help="The total, counting those that ran.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds until no new trial starts.")
    ] = None,
    backend: Backend = None,
    workers: Workers = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    address: Address = None,
    ship_data: ShipData = None,
    retries: Retries = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, …")] = None,
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    disk: Disk = None,
    cache_memory: CacheMemory = None,
    cache_disk: CacheDisk = None,
    timings: Timings = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted search, or with more trials; also elsewhere than it began.

    Example: autotune resume runs/digits --trials 40 --backend ray
    """
    from autotune.cli.live import watching
    from autotune.config import read_settings
    from autotune.run import RunFolder

    folder = RunFolder.existing(run)
    total = trials or read_settings({}, file=str(folder.config)).most_trials
    with watching(total, quiet=quiet or as_json):
        from autotune.api import resume as go_on

        beside = {"run", "timings", "quiet", "as_json"}
        study = go_on(run, **{k: v for k, v in context.params.items() if k not in beside})
    _show_result(study, as_json, timings)


def _dry_run(settings: Any, as_json: bool) -> None:
    from autotune.cli.menus import print_plan_of_search, search_to_json

    found = search_to_json(settings)
    show_json(found) if as_json else print_plan_of_search(found)


def _show_result(study: Study, as_json: bool, timings: bool) -> None:
    from autotune.cli.tables import print_result, print_timings

    status = study.status()
    if as_json:
        show_json(status)
        return
    print_result(status)
    if timings:
        print_timings(status)
