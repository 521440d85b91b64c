"""The head: the layer that produces the logits, and a new one of its kind for other classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.precision import TUNABLE
from autotune.backbones.weight_hooks import hooked, put_hook, without_hooks
from autotune.errors import BackboneError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Classes of heads, with their subclasses."""

FACTORY = "or make heads with --head-factory"
"""Way out where a head cannot be copied."""


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


def new_head(old: nn.Module, classes: int) -> nn.Module:
    """Untrained copy of a head with `classes` outputs; everything else of it is as in `old`.

    The copy has the class, dtype, device, bias, stride, padding, groups and parametrizations of the
    old layer (a pruned one has an empty mask), and the layer's own `reset_parameters` initialises
    it. Raises `BackboneError` for a layer that cannot be copied so: one of another class than a
    Linear or a convolution, with further parameters of the size of its output, or with groups that
    do not divide the number of classes.
    """
    if not isinstance(old, LAYERS):
        raise BackboneError(_cannot_copy(old, "it is no Linear or convolution"))
    with torch.no_grad():
        head = _plain_copy(old)
        width = _set_outputs(head, classes)
        for name, parameter in list(head.named_parameters(recurse=False)):
            if name in ("weight", "bias"):
                shape = (classes, *parameter.shape[1:])
                setattr(head, name, nn.Parameter(parameter.new_empty(shape)))
            elif width in parameter.shape:
                reason = f"its parameter {name!r} has one value per output"
                raise BackboneError(_cannot_copy(old, reason))
        head.reset_parameters()  # type: ignore[operator]
        _parametrize_as(old, head)
    return head.requires_grad_(True)


def n_outputs(old: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Number of outputs of a head like `old` with these tensors.

    Weights that are computed from others have another name: their shapes are compared with those of
    `old`, as only the number of outputs may differ.
    """
    for name in ("weight", "bias"):
        if name in tensors:
            return len(tensors[name])
    before = old.state_dict()
    pairs = [(before[name].shape, tensor.shape) for name, tensor in tensors.items()]
    sizes = [new for a, b in pairs for former, new in zip(a, b, strict=True) if former != new]
    number = sizes[0] if sizes else n_classes(old)
    if number is None:
        raise BackboneError(_cannot_copy(old, "its number of outputs has no name"))
    return number


def n_classes(head: nn.Module) -> int | None:
    """Number of outputs of a head; None for a layer that does not name it."""
    number = getattr(head, "out_features", getattr(head, "out_channels", None))
    return number if isinstance(number, int) else None


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


def _plain_copy(old: nn.Module) -> nn.Module:
    """Copy of a layer without its parametrizations, whose tensors become plain parameters."""
    names = _parametrized(old)
    kind = parametrize.type_before_parametrizations(old)
    state = {**vars(old), "_modules": {} if names else old._modules}
    # not deepcopy(old): a copy of a parametrized layer shares its class, and
    # remove_parametrizations changes the class
    state = copy.deepcopy(without_hooks(old, state))
    head: nn.Module = object.__new__(kind)
    vars(head).update(state)
    for name in (*names, *hooked(old)):
        setattr(head, name, nn.Parameter(getattr(old, name).detach().clone()))
    return head


def _parametrized(layer: nn.Module) -> list[str]:
    """Names of the tensors of a layer that are parametrized."""
    return list(layer.parametrizations) if parametrize.is_parametrized(layer) else []  # type: ignore[arg-type]


def _set_outputs(head: nn.Module, classes: int) -> int:
    """Set the number of outputs of a layer; return the former one."""
    if isinstance(head, nn.Linear):
        before, head.out_features = head.out_features, classes
        return before
    assert isinstance(head, nn.modules.conv._ConvNd)
    if classes % head.groups:
        raise BackboneError(
            f"The outputs of the head must be a multiple of its {head.groups} groups, the task has "
            f"{classes} classes. Name another layer with --head, {FACTORY}."
        )
    before, head.out_channels = head.out_channels, classes
    return before


def _parametrize_as(old: nn.Module, head: nn.Module) -> None:
    for name in _parametrized(old):
        stack: Any = old.parametrizations[name]  # type: ignore[index]
        for parametrization in stack:
            fresh = _fresh(old, parametrization, getattr(head, name))
            parametrize.register_parametrization(head, name, fresh, unsafe=stack.unsafe)
    for name, hook in hooked(old).items():
        put_hook(head, name, hook)


def _fresh(old: nn.Module, parametrization: nn.Module, weight: Tensor) -> nn.Module:
    if isinstance(parametrization, parametrizations._SpectralNorm):
        steps = getattr(parametrization, "n_power_iterations", 1)
        return type(parametrization)(weight, steps, parametrization.dim, parametrization.eps)
    if isinstance(parametrization, parametrizations._Orthogonal):
        has_base = hasattr(parametrization, "base")
        form = parametrization.orthogonal_map
        return type(parametrization)(weight, form, use_trivialization=has_base)
    if any(True for _ in _tensors(parametrization)):
        raise BackboneError(
            _cannot_copy(old, f"its parametrization {type(parametrization).__name__} has tensors")
        )
    return copy.deepcopy(parametrization)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _cannot_copy(old: nn.Module, reason: str) -> str:
    return (
        f"A head must be copied with another number of outputs, {type(old).__name__} cannot: "
        f"{reason}. Name another layer with --head, {FACTORY}."
    )
