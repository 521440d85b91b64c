"""Hooks that compute a layer's weight before each forward: `nn.utils.weight_norm` and the like."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm

HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)

_STATE_HOOKS = (SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook)


def hooked(layer: nn.Module) -> dict[str, Any]:
    """Name of a tensor → the hook that computes it."""
    hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, HOOKS)]
    return {tensor_of(hook): hook for hook in hooks}


def tensor_of(hook: Any) -> str:
    """Name of the tensor that a hook computes."""
    name: str = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
    return name


def without_hooks(layer: nn.Module, attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a layer without these hooks, their tensors, and what they have computed."""
    names = hooked(layer)
    ends = ("", "_g", "_v", "_orig", "_u", "_mask")
    tensors = {f"{name}{end}" for name in names for end in ends}
    kept = {key: value for key, value in attributes.items() if key not in tensors}
    for table in ("_parameters", "_buffers"):
        kept[table] = {k: t for k, t in attributes[table].items() if k not in tensors}
    for table in ("_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks"):
        hooks = attributes[table].items()
        kept[table] = type(attributes[table])((k, h) for k, h in hooks if not _is_theirs(h))
    return kept


def put_hook(layer: nn.Module, name: str, hook: Any) -> None:
    """Compute a tensor of `layer` like `hook` does; a new layer has nothing pruned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch recommends parametrizations instead
        if isinstance(hook, prune.BasePruningMethod):
            prune.identity(layer, name)
        elif isinstance(hook, WeightNorm):
            weight_norm(layer, name, hook.dim)
        else:
            spectral_norm(layer, name, hook.n_power_iterations, hook.eps, hook.dim)
    computed = vars(layer).get(name)
    if isinstance(computed, Tensor):
        vars(layer)[name] = computed.detach()  # a copy of the layer needs a leaf


def _is_theirs(hook: Any) -> bool:
    kinds = (*HOOKS, *_STATE_HOOKS)
    return isinstance(hook, kinds) or isinstance(getattr(hook, "hook", None), kinds)
