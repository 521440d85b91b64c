"""Checks that refuse a search before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.usage import written_parameters
from autotune.deltas.outputs import NOT_REPEATABLE, REPEATABLE, is_repeatable
from autotune.deltas.surgery import exchanged
from autotune.errors import BackboneError, ConfigError, TaskError, first_line
from autotune.run.settings import Settings
from autotune.study.policy.network import read_policy
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import load_strategy
from autotune.study.strategies.score_source import ScoreSource
from autotune.training.batchnorm import has_statistics
from autotune.utils.events import warn


def check_policy(settings: Settings) -> None:
    """Raise `ConfigError` for `--policy` or `--supernet` with a strategy that learns no policy.

    Raises `PolicyError` for a file that is no policy.
    """
    source = load_strategy(settings.strategy).score_source
    for name, file in (("policy", settings.policy), ("supernet", settings.supernet)):
        if file is not None and source is not ScoreSource.POLICY:
            raise ConfigError(
                f"--{name} is for strategies that learn a policy, {settings.strategy} learns "
                "none. Leave one of them out."
            )
    if settings.policy is not None:
        read_policy(settings.policy)


def check_pruner(settings: Settings) -> None:
    """Refuse a pruner that is unknown or does not work with the folds or the objective."""
    PRUNERS.check(settings.pruner)
    if settings.pruner == "wilcoxon" and not settings.folds:
        raise ConfigError("--pruner wilcoxon compares folds, there are none. Give --folds 5.")
    if settings.objective and settings.pruner in ("median", "wilcoxon"):
        raise ConfigError(
            f"--pruner {settings.pruner} ignores cost, so it would end trials that the objective "
            f"{settings.objective} needs. Use forecast, halving, hyperband, race or none."
        )


def require_one_gpu(settings: Settings) -> None:
    """Raise `ConfigError` for several GPUs per trial: all but one would be reserved and idle."""
    if (gpus := settings.gpus_per_trial or 0) > 1:
        raise ConfigError(
            f"A trial runs on one GPU at most, got --gpus-per-trial {gpus:g}. Leave it out for "
            "one GPU per trial, or give a share such as 0.25 for four trials on a GPU."
        )


def require_statistics(settings: Settings, network: nn.Module) -> None:
    """Raise `ConfigError` for `--bnstats on` with a network that has no statistics."""
    if settings.bnstats == "on" and not has_statistics(network):
        raise ConfigError(
            "--bnstats on needs normalisation statistics, this backbone has none. Use auto."
        )


def require_unwritten(network: nn.Module, inputs: torch.Tensor) -> None:
    """Raise `BackboneError` if a forward pass changes parameters, which are restored."""
    if written := written_parameters(network, inputs):
        raise BackboneError(
            f"A forward pass must leave parameters as they are, this network's changes {written[0]}"
            f"{f' and {len(written) - 1} others' if written[1:] else ''}. Change them outside of "
            "forward, or make them buffers with register_buffer."
        )


def try_forward(backbone: Backbone, inputs: torch.Tensor, classes: int) -> None:
    """Run one small batch, to refuse a network that cannot run before anything starts.

    The batch runs with the network's own head, as a whole and its first example alone, and with a
    head for the task's classes. If it gives other logits when it runs again, the network's forward
    pass is random or depends on earlier ones, which is reported.
    """
    with evaluating(backbone.network) as network:
        logits = logits_of(_forward(network, inputs))
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            raise BackboneError(
                f"A backbone must return logits (n, classes), this one returns {_kind(logits)}."
            )
        _try_one(network, inputs[:1])
        if not is_repeatable(network, inputs):
            warn(
                f"Results of this search vary: {NOT_REPEATABLE}, and an export cannot be checked. "
                f"{REPEATABLE}"
            )
        _try_head(backbone, classes, inputs)


def _try_one(network: nn.Module, inputs: torch.Tensor) -> None:
    """Raise `BackboneError` if one example alone gives other shapes, as `squeeze()` does."""
    try:
        logits = logits_of(network(inputs))
        got = str(tuple(logits.shape))
    except Exception as error:  # the network's code may raise anything
        logits, got = None, f"an error ({first_line(error)})"
    if logits is None or logits.ndim != 2 or len(logits) != 1:
        raise BackboneError(
            f"A backbone must return logits (1, classes) for one example alone, which gives {got}. "
            "Use flatten(1) instead of squeeze(), and no statistics of the batch."
        )


def _kind(output: Any) -> str:
    """Description of an output that is not a tensor of logits, with the way out."""
    kind = type(output).__name__
    if isinstance(output, torch.Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        keys = ", ".join(map(str, output)) or "none"
        return f"a {kind} with the keys {keys}. Return the logits under 'logits', or alone"
    if isinstance(output, tuple | list):
        return (
            f"a {kind} of {len(output)}, as networks with several heads do. Return one tensor: "
            "that of one head, or their mean"
        )
    return f"a {kind}. Return a tensor, or an object whose attribute logits is one"


def _forward(network: nn.Module, inputs: torch.Tensor) -> Any:
    try:
        return network(inputs)
    except Exception as error:  # the network's code may raise anything
        first = first_line(error)
        raise TaskError(
            f"The backbone must take the task's examples, {tuple(inputs.shape[1:])} "
            f"{str(inputs.dtype).removeprefix('torch.')} each; it raised: {first}. "
            "Change the examples, or describe the input with --input FILE."
        ) from error


def _try_head(backbone: Backbone, n: int, inputs: torch.Tensor) -> None:
    network, path = backbone.network, backbone.head
    head = backbone.new_head(n)
    try:
        with exchanged(network, path, head):
            got = str(tuple(logits_of(network(inputs)).shape))
    except Exception as error:  # the network's code may raise anything
        got = f"an error ({first_line(error)})"
    if got != (wanted := str((len(inputs), n))):
        raise BackboneError(
            f"With a head for {n} classes in place of {path!r} the backbone must return {wanted}, "
            f"got {got}. Name the last layer with --head; if a bare parameter makes the logits, "
            "put it into a layer such as nn.Linear."
        )
