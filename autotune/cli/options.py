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
class Entry:
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


MANUAL: dict[str, dict[str, Entry]] = {
    WHAT: {
        "backbone": Entry(
            "builtin:digits, torchvision:NAME or python:MODULE-or-FILE:FUNCTION.", "SOURCE"
        ),
        "weights": Entry("A .safetensors or .pth file for the backbone.", "FILE"),
        "head": Entry("The task layer, if it is not the last.", "PATH"),
        "keep_head": Entry("Start from the old head where it fits."),
        "input": Entry("YAML with size, channels, mean, std (or shape, dtype).", "FILE"),
        "task": Entry(
            "builtin:digits, imagefolder:DIR, npz:FILE or python:MODULE-or-FILE:FUNCTION.", "SOURCE"
        ),
        "budget": Entry(
            "1%, 0.5%, 50k, 1.5M, 2000 parameters; 0.5MB, 300kB of delta file.", "LIMIT"
        ),
        "count_head": Entry("The task's head counts too."),
        "space": Entry("A search space by name, or a YAML file; by itself the family's.", "SPACE"),
        "granularity": Entry("What a unit is: {}.", values="block layer"),
        "bnstats": Entry("Re-estimate normalisation statistics: {}.", values="auto on off"),
    },
    HOW: {
        "strategy": Entry(
            "Who proposes plans: {}.",
            values="policy proxy greedy tpe gp nsga2 qmc random bruteforce",
        ),
        "options": Entry("The strategy's own, such as {{direction: backward}} of greedy."),
        "policy": Entry("Start from what another search learned, its policy.safetensors.", "FILE"),
        "supernet": Entry("Use what the supernet of a run of the same training measured.", "RUN"),
        "profile": Entry("Begin with the trials of a profile of the same training.", "RUN"),
        "trials": Entry("How many plans at most; by itself as many as suit the strategy.", "N"),
        "timeout": Entry("No new trial after so many seconds.", "SECONDS"),
        "epochs": Entry("Epochs of a trial.", "N"),
        "batch_size": Entry("Examples a step.", "N"),
        "augment": Entry("Of training inputs: {}.", values="none flip crop+flip"),
        "views": Entry(
            "Augmented views of each input that are kept; 0 for a new one each epoch.",
            "N",
        ),
        "precision": Entry(
            "{}; auto is bfloat16 on a GPU, float32 on the CPU.", values="auto float32 bfloat16"
        ),
        "layout": Entry(
            "Of pictures: {}; auto is channels_last, often faster, on a GPU.",
            values="auto contiguous channels_last",
        ),
        "fold": Entry(
            "Frozen normalisation becomes part of the convolution before it: faster, rounds."
        ),
        "metric": Entry("What is maximised: {}.", values="accuracy balanced_accuracy f1 auroc"),
        "objective": Entry(
            "METRIC,cost (or bytes, latency, memory): the front of both.", "METRIC,PRICE"
        ),
        "folds": Entry("Score plans by so many folds; 0 for one validation part.", "N"),
        "pruner": Entry(
            "What ends trials early: {}.",
            values="auto race halving hyperband forecast median wilcoxon none",
        ),
        "seed": Entry("Of splits, plans and training.", "N"),
        "references": Entry("Run what the result is compared with."),
    },
    WHERE: {
        "backend": Entry(
            "Where trials run: {}; auto is inline (this process) for one worker.",
            values="auto inline processes ray",
        ),
        "workers": Entry("Trials at once; by itself 1, on Ray as many as fit.", "N"),
        "cpus_per_trial": Entry("On Ray; also its threads. 1 by itself.", "N"),
        "gpus_per_trial": Entry(
            "0.25 puts four trials on a GPU; 1 by itself, where there is one.", "N"
        ),
        "address": Entry(
            "Of a Ray cluster: auto (one that runs here, else a local one), local, HOST:PORT, "
            "ray://HOST:10001.",
            "ADDRESS",
        ),
        "ship_data": Entry("On Ray: send picture files to the nodes that lack them."),
        "retries": Entry("How often a trial whose worker died goes on in another.", "N"),
        "device": Entry("Where networks run: auto, cpu, cuda, cuda:1.", "DEVICE"),
        "out": Entry("A new run folder; by itself runs/TASK.", "DIR"),
        "storage": Entry("An Optuna storage instead of the folder's own.", "URL"),
        "keep": Entry("Delta files of the best five trials, or of all: {}.", values="best all"),
        "disk": Entry(
            "Most that the files of trials may take, as 2GB; the best one always stays.", "SIZE"
        ),
        "cache_memory": Entry(
            "For what the frozen part computes, which trials share, as 2GB; 0 for none.", "SIZE"
        ),
        "cache_disk": Entry(
            "What does not fit there, or is for several workers, in files, as 10GB.", "SIZE"
        ),
        "cache_dtype": Entry("{}: exact, or half as large and rounded.", values="float32 bfloat16"),
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


def _completion(name: str, entry: Entry) -> Completion | None:
    if name in FOUND:
        return FOUND[name]
    return among(entry.values) if entry.values else None
