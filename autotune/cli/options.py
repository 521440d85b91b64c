"""What every setting does: the help of `search` and the comments that `init` writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import typer

from autotune.cli.completion import Completion, among, runs, spaces

FOUND: dict[str, Completion] = {"space": spaces, "profile": runs, "supernet": runs}
"""Settings whose values are looked up."""

WHAT, HOW, WHERE = "What is tuned", "How it is searched and trained", "Where it runs and writes"


@dataclass(frozen=True)
class OptionHelp:
    """A setting as it is shown."""

    help: str
    """One sentence; `{}` stands for the values."""

    metavar: str | None = None
    """None for what is a flag or takes names."""

    values: str = ""
    """All that it takes, where these are names."""

    @property
    def text(self) -> str:
        return self.help.format(", ".join(self.values.split()))


MANUAL: dict[str, dict[str, OptionHelp]] = {
    WHAT: {
        "backbone": OptionHelp(
            "builtin:digits, torchvision:NAME or python:MODULE-or-FILE:FUNCTION.", "SOURCE"
        ),
        "weights": OptionHelp("A .safetensors or .pth file for the backbone.", "FILE"),
        "head": OptionHelp("The task layer, if it is not the last.", "PATH"),
        "keep_head": OptionHelp("Start from the old head where it fits."),
        "input": OptionHelp("YAML with size, channels, mean, std (or shape, dtype).", "FILE"),
        "task": OptionHelp(
            "builtin:digits, imagefolder:DIR, npz:FILE or python:MODULE-or-FILE:FUNCTION.", "SOURCE"
        ),
        "budget": OptionHelp(
            "1%, 0.5%, 50k, 1.5M, 2000 parameters; 0.5MB, 300kB of delta file.", "LIMIT"
        ),
        "count_head": OptionHelp("The task's head counts too."),
        "space": OptionHelp(
            "A search space by name, or a YAML file; by itself the family's.", "SPACE"
        ),
        "granularity": OptionHelp("What a unit is: {}.", values="block layer"),
        "bnstats": OptionHelp("Re-estimate normalisation statistics: {}.", values="auto on off"),
    },
    HOW: {
        "strategy": OptionHelp(
            "Who proposes plans: {}.",
            values="policy proxy greedy tpe gp nsga2 qmc random bruteforce",
        ),
        "options": OptionHelp("The strategy's own, such as {{direction: backward}} of greedy."),
        "policy": OptionHelp(
            "Start from what another search learned, its policy.safetensors.", "FILE"
        ),
        "supernet": OptionHelp(
            "Use what the supernet of a run of the same training measured.", "RUN"
        ),
        "profile": OptionHelp("Begin with the trials of a profile of the same training.", "RUN"),
        "trials": OptionHelp(
            "How many plans at most; by itself as many as suit the strategy.", "N"
        ),
        "timeout": OptionHelp("No new trial after so many seconds.", "SECONDS"),
        "epochs": OptionHelp("Epochs of a trial.", "N"),
        "batch_size": OptionHelp("Examples a step.", "N"),
        "augment": OptionHelp("Of training inputs: {}.", values="none flip crop+flip"),
        "views": OptionHelp(
            "Augmented views of each input that are kept; 0 for a new one each epoch.",
            "N",
        ),
        "precision": OptionHelp(
            "{}; auto is bfloat16 on a GPU, float32 on the CPU.", values="auto float32 bfloat16"
        ),
        "layout": OptionHelp(
            "Of pictures: {}; auto is channels_last, often faster, on a GPU.",
            values="auto contiguous channels_last",
        ),
        "fold": OptionHelp(
            "Frozen normalisation becomes part of the convolution before it: faster, rounds."
        ),
        "metric": OptionHelp(
            "What is maximised: {}.", values="accuracy balanced_accuracy f1 auroc"
        ),
        "objective": OptionHelp(
            "METRIC,cost (or bytes, latency, memory): the front of both.", "METRIC,PRICE"
        ),
        "folds": OptionHelp("Score plans by so many folds; 0 for one validation part.", "N"),
        "pruner": OptionHelp(
            "What ends trials early: {}.",
            values="auto race halving hyperband forecast median wilcoxon none",
        ),
        "seed": OptionHelp("Of splits, plans and training.", "N"),
        "references": OptionHelp("Run what the result is compared with."),
    },
    WHERE: {
        "backend": OptionHelp(
            "Where trials run: {}; auto is inline (this process) for one worker.",
            values="auto inline processes ray",
        ),
        "workers": OptionHelp("Trials at once; by itself 1, on Ray as many as fit.", "N"),
        "cpus_per_trial": OptionHelp("On Ray; also its threads. 1 by itself.", "N"),
        "gpus_per_trial": OptionHelp(
            "0.25 puts four trials on a GPU; 1 by itself, where there is one.", "N"
        ),
        "address": OptionHelp(
            "Of a Ray cluster: auto (one that runs here, else a local one), local, HOST:PORT, "
            "ray://HOST:10001.",
            "ADDRESS",
        ),
        "ship_data": OptionHelp("On Ray: send picture files to the nodes that lack them."),
        "retries": OptionHelp("How often a trial whose worker died goes on in another.", "N"),
        "device": OptionHelp("Where networks run: auto, cpu, cuda, cuda:1.", "DEVICE"),
        "out": OptionHelp("A new run folder; by itself runs/TASK.", "DIR"),
        "storage": OptionHelp("An Optuna storage instead of the folder's own.", "URL"),
        "keep": OptionHelp(
            "Delta files of the best five trials, or of all: {}.", values="best all"
        ),
        "disk": OptionHelp(
            "Most that the files of trials may take, as 2GB; the best one always stays.", "SIZE"
        ),
        "cache_memory": OptionHelp(
            "For what the frozen part computes, which trials share, as 2GB; 0 for none.", "SIZE"
        ),
        "cache_disk": OptionHelp(
            "What does not fit there, or is for several workers, in files, as 10GB.", "SIZE"
        ),
        "cache_dtype": OptionHelp(
            "{}: exact, or half as large and rounded.", values="float32 bfloat16"
        ),
    },
}
"""Panel → setting → entry, in the order in which they are shown."""

NAMES = [name for entries in MANUAL.values() for name in entries]


@cache
def setting(name: str, *, panel: bool = True) -> Any:
    """The option of a setting; without `panel` among a command's other options."""
    group = next(title for title, entries in MANUAL.items() if name in entries)
    entry = MANUAL[group][name]
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=entry.text,
        metavar=entry.metavar or ("NAME" if entry.values else ""),
        rich_help_panel=group if panel else None,
        autocompletion=_completion(name, entry),
    )


def _completion(name: str, entry: OptionHelp) -> Completion | None:
    if name in FOUND:
        return FOUND[name]
    return among(entry.values) if entry.values else None
