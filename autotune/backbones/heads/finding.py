"""Search for the head: the layer that produces the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.heads.copies import LAYERS
from autotune.backbones.precision import TUNABLE
from autotune.errors import BackboneError


def find_head(network: nn.Module, inputs: Tensor | None = None) -> str:
    """Path of the layer that produces the logits.

    With a batch of `inputs` (n, ...) the network runs once, and the head is the layer with
    parameters that the logits are computed from directly. Otherwise, or if it cannot run, it is the
    last Linear or convolution that was registered, or the last layer if there is none. Raises
    `BackboneError` if there is no such layer, or several.
    """
    if not any(True for _ in network.parameters()):
        raise BackboneError("A backbone must have parameters, this network has none.")
    paths = None if inputs is None else _producers(network, inputs)
    if paths is None:
        return _last_registered(network)
    if len(paths) > 1:
        raise BackboneError(
            f"A backbone must have one head, the logits come from {', '.join(paths)}. "
            "Name one of them with --head; the others stay frozen."
        )
    return checked_head(network, paths[0])


def checked_head(network: nn.Module, path: str) -> str:
    """The path again; `BackboneError` if there is no layer that can be the head."""
    try:
        layer = network.get_submodule(path)
    except AttributeError as error:
        raise BackboneError(f"The network has no layer {path!r}. Name another --head.") from error
    if path and any(True for _ in layer.parameters()):
        return path
    raise BackboneError(
        f"A head must be a layer with parameters inside the network, "
        f"{repr(path) if path else 'the network itself'} is a {type(layer).__name__}. "
        "Name the layer with --head."
    )


def _producers(network: nn.Module, inputs: Tensor) -> list[str] | None:
    """Paths of the layers from which the logits are computed directly, in the order of calls.

    The autograd graph is followed back from the logits to the first outputs of layers with
    parameters. None if the network cannot run on the inputs, or its logits have no graph.
    """
    paths = {module: path for path, module in network.named_modules() if _is_layer(module)}
    producers: dict[Any, str] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            producers[output.grad_fn] = paths[module]

    handles = [module.register_forward_hook(note) for module in paths]
    try:
        with evaluating(network), _differentiable(network), torch.enable_grad():
            return _followed(logits_of(network(inputs)), producers)
    except Exception:  # a network may raise anything; `try_forward` reports it on the task's data
        return None
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[None]:
    """Context in which all parameters that can be tuned require gradients."""
    flags = [(p, p.requires_grad) for p in network.parameters() if p.dtype in TUNABLE]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer with parameters: it has no children but parametrizations."""
    children = {name for name, _ in module.named_children()} - {"parametrizations"}
    return not children and any(True for _ in module.parameters())


def _followed(logits: Any, producers: dict[Any, str]) -> list[str] | None:
    if not isinstance(logits, Tensor) or logits.grad_fn is None:
        return None
    reached: dict[str, None] = {}
    waiting, seen = [logits.grad_fn], set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        if function in producers:
            reached[producers[function]] = None
        else:
            waiting += [before for before, _ in function.next_functions if before is not None]
    order = list(producers.values())
    return sorted(reached, key=order.index) or None


def _last_registered(network: nn.Module) -> str:
    modules = dict(network.named_modules())
    layers = [path for path, module in modules.items() if isinstance(module, LAYERS)]
    layers = layers or [path for path, module in modules.items() if path and _is_layer(module)]
    return checked_head(network, layers[-1] if layers else "")
