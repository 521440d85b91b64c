"""Flow: the tensors that pass between a network's modules, recorded in one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import InputDescription, some_inputs

BATCH = 2
"""Blank examples in a trace; more than one, as other dimensions of size 1 are common."""

NOISY = 5
"""Examples of noise in a trace."""


@dataclass(frozen=True)
class Point:
    """Input or output tensor of a module."""

    path: str
    """Path of the module; empty for the network itself."""

    is_input: bool
    """Whether it is the module's first argument; its output otherwise."""

    shape: tuple[int, ...]
    """Shape of one example, without the batch dimension."""

    dtype: torch.dtype

    channel: int
    """Dimension that holds the channels, the batch being dimension 0."""

    is_batched: bool = True
    """Whether dimension 0 is the batch; some networks have tokens there, and the batch second."""

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[self.channel - 1]

    @property
    def places(self) -> tuple[int, ...]:
        """Sizes of the other dimensions: height and width, or tokens; empty after pooling."""
        return tuple(size for at, size in enumerate(self.shape, 1) if at != self.channel)


@dataclass(frozen=True)
class Call:
    """The only call of a module in a forward pass; a point is None if it is not one tensor."""

    path: str
    input: Point | None
    output: Point | None
    end: int = 0
    """Place of the call in the order in which calls end."""


class Flow:
    """Calls of modules that are called exactly once, in the order in which they begin."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = dict(calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls.values())

    def get(self, path: str) -> Call | None:
        return self.calls.get(path)


def trace(network: nn.Module, input: InputDescription) -> Flow:
    """Record the flow of blank examples through the network, which is left unchanged.

    Batches of other sizes, one of them of noise, show what is called with all examples: where a
    network sends each example another way, some modules get a part of them. Works on the meta
    device too, with one batch and without any arithmetic. Raises what the network raises.
    """
    device = next(network.parameters()).device
    dtype = getattr(torch, input.dtype)
    blank = torch.zeros(BATCH, *input.example_shape, dtype=dtype, device=device)
    flow = _flow_of(network, blank)
    if device.type != "meta":
        for batch in (torch.cat([blank, blank[:1]]), some_inputs(input, NOISY).to(device)):
            with suppress(Exception):  # a network may refuse noise
                flow = _in_both(flow, _flow_of(network, batch))
    return flow


def _flow_of(network: nn.Module, inputs: Tensor) -> Flow:
    recorder = _Recorder(network, len(inputs))
    try:
        with evaluating(network):
            network(inputs)
    finally:
        recorder.close()
    return Flow(recorder.calls())


def _in_both(flow: Flow, other: Flow) -> Flow:
    """Calls that are in two flows; their tensors have a batch if they have it in both."""
    pairs = [(call, other.get(call.path)) for call in flow]
    return Flow(
        {
            call.path: replace(
                call,
                input=_alike(call.input, also.input),
                output=_alike(call.output, also.output),
            )
            for call, also in pairs
            if also is not None
        }
    )


def _alike(point: Point | None, other: Point | None) -> Point | None:
    if point is None or other is None:
        return None
    is_batched = point.is_batched and other.is_batched and point.shape == other.shape
    return replace(point, is_batched=is_batched)


class _Recorder:
    def __init__(self, network: nn.Module, n_examples: int) -> None:
        self.network, self.n_examples = network, n_examples
        self.paths = {module: path for path, module in network.named_modules()}
        self.began: list[nn.Module] = []
        self.passed: dict[nn.Module, tuple[Any, Any]] = {}
        self.handles = [
            handle
            for module in self.paths
            for handle in (
                module.register_forward_pre_hook(self._begin, with_kwargs=True),
                module.register_forward_hook(self._end, with_kwargs=True),
            )
        ]

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.began.append(module)

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.passed[module] = (args[0] if args else next(iter(kwargs.values()), None), output)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def calls(self) -> dict[str, Call]:
        times = Counter(self.began)
        once = [m for m, n in times.items() if n == 1 and m in self.passed]
        ends = {module: end for end, module in enumerate(self.passed)}
        return {self.paths[module]: self._call(module, ends[module]) for module in once}

    def _call(self, module: nn.Module, end: int) -> Call:
        path, (value, output) = self.paths[module], self.passed[module]
        before = _point(module, path, True, value, self.n_examples)
        after = _point(module, path, False, output, self.n_examples)
        return Call(path, before, after, end)


def first_tensor(output: Any) -> Any:
    """Output tensor of a module: the output itself, or the first of a tuple (attention)."""
    return output[0] if isinstance(output, tuple) and output else output


def _point(module: nn.Module, path: str, is_input: bool, value: Any, n: int) -> Point | None:
    tensor = value if is_input else first_tensor(value)
    if not isinstance(tensor, Tensor) or tensor.ndim < 2:
        return None
    channel = _channel(module, tensor, is_input)
    batched = len(tensor) == n
    return Point(path, is_input, tuple(tensor.shape[1:]), tensor.dtype, channel, batched)


def _channel(module: nn.Module, tensor: Tensor, is_input: bool) -> int:
    """Channel dimension, 1 or the last: the one whose size fits the module's layers."""
    last = tensor.ndim - 1
    widths = {w for m in module.modules() for w in _widths(m, is_input)}
    fits = [at for at in dict.fromkeys((1, last)) if tensor.shape[at] in widths]
    if len(fits) == 1:
        return fits[0]
    # Both or neither fit: channels come first in images and 1d convolutions, last in tokens.
    channels_first = nn.Conv1d if tensor.ndim == 3 else nn.Module
    return 1 if any(isinstance(m, channels_first) for m in module.modules()) else last


def _widths(layer: nn.Module, is_input: bool) -> tuple[int, ...]:
    names = ("in_features", "in_channels") if is_input else ("out_features", "out_channels")
    norms = ("num_features", "embed_dim", "embedding_dim")
    sizes = [getattr(layer, name, None) for name in (*names, *norms)]
    sizes += list(getattr(layer, "normalized_shape", ())[-1:])
    return tuple(width for width in sizes if isinstance(width, int))
