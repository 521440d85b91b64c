"""Every kind of layer, stage and network that methods are tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from autotune.backbones.dataflow import Flow, trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.sources.digits import Block
from autotune.backbones.units import Unit

from .networks import (
    Around,
    Attending,
    ByName,
    Crossing,
    Frames,
    Images,
    InPlace,
    Recurrent,
    Tied,
    Tokens,
    Transformer,
    Vectors,
    Volumes,
    Windows,
)


@dataclass(frozen=True, eq=False)
class Kind:
    """A network that is made anew for every test, and the unit or span in it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Shape of one example."""

    levels: tuple[str, ...] = ()
    """Modules that a span runs over; empty for a unit, which is the module `unit`."""

    dtype: str = "float32"
    """Dtype of the examples."""

    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch's own also looks for GPUs, slowly
            network = self.make()
            for tensor in network.state_dict().values():  # norms and biases as after training
                if tensor.is_floating_point() and tensor.ndim == 1:
                    tensor.add_(0.3 * torch.rand_like(tensor))
        return network

    def unit(self, network: nn.Module) -> Unit:
        if self.levels:
            return Unit("span", (), tuple(_inside(network, level) for level in self.levels))
        return Unit("unit", _inside(network, "unit"))

    def batch(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        if self.dtype == "int64":
            return torch.randint(7, (4, *self.shape), generator=generator)
        return torch.randn(4, *self.shape, generator=generator)

    @cached_property
    def shapes(self) -> tuple[nn.Module, Flow]:
        """The network without values, to be looked at alone."""
        with torch.device("meta"):
            network = self.network()
        return network, trace(network, InputDescription(shape=self.shape, dtype=self.dtype))


def _inside(network: nn.Module, path: str) -> tuple[str, ...]:
    return tuple(name for name, _ in network.named_parameters() if name.startswith(f"{path}."))


def _layer(make: Callable[[], nn.Module], *shape: int, dtype: str = "float32") -> Kind:
    return Kind(lambda: Around(make()), shape, dtype=dtype)


LAYERS: dict[str, Kind] = {
    "linear": _layer(lambda: nn.Linear(6, 5), 6),
    "convolution": _layer(lambda: nn.Conv2d(4, 6, 3, padding=1), 4, 5, 5),
    "grouped": _layer(lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), 4, 5, 5),
    "strided": _layer(lambda: nn.Conv2d(4, 6, 3, stride=2), 4, 5, 5),
    "dilated": _layer(lambda: nn.Conv2d(4, 6, 3, dilation=2), 4, 6, 6),
    "pointwise": _layer(lambda: nn.Conv2d(4, 6, 1), 4, 5, 5),
    "depthwise": _layer(lambda: nn.Conv2d(4, 4, 3, groups=4), 4, 5, 5),
    "conv1d": _layer(lambda: nn.Conv1d(4, 6, 3), 4, 5),
    "transposed": _layer(lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), 4, 3, 3),
    "transposed-grouped": _layer(lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), 4, 3, 3),
    "batchnorm": _layer(lambda: nn.BatchNorm2d(4), 4, 5, 5),
    "layernorm": _layer(lambda: nn.LayerNorm(6), 3, 6),
    "embedding": _layer(lambda: nn.Embedding(7, 6), 3, dtype="int64"),
    "attention": _layer(lambda: Attending(batch_first=True), 3, 6),
    "attention-batch-second": _layer(lambda: Attending(batch_first=False), 3, 6),
    "cross-attention": _layer(lambda: Crossing(vdim=4), 3, 6),
    "transformer": _layer(Transformer, 3, 6),
    "torch-transformer": _layer(
        lambda: nn.TransformerEncoderLayer(6, 2, 9, 0.0, batch_first=True), 3, 6
    ),
    "recurrent": _layer(Recurrent, 3, 6),
    "block": _layer(lambda: Block(4, 6, 2), 4, 6, 6),
    "tied": _layer(lambda: Tied(nn.Linear(6, 6), nn.Linear(6, 6)), 6),
    "tied-embedding": _layer(
        lambda: Tied(nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)), 3, dtype="int64"
    ),
}

SPANS: dict[str, Kind] = {
    "stage": Kind(Images, (2, 8, 8), ("first",)),
    "widening-stage": Kind(Images, (2, 8, 8), ("second",)),
    "window-stage": Kind(Windows, (2, 10, 10), ("first",)),
    "token-stage": Kind(lambda: Tokens(nn.Linear(4, 6)), (5, 4), ("blocks",)),
    "word-stage": Kind(lambda: Tokens(nn.Embedding(7, 6)), (5,), ("blocks",), "int64"),
    "images": Kind(Images, (2, 8, 8), ("first", "second", "head")),
    "windows": Kind(Windows, (2, 10, 10), ("first", "second", "head")),
    "tokens": Kind(lambda: Tokens(nn.Linear(4, 6)), (5, 4), ("blocks.0", "blocks.1", "head")),
    "words": Kind(
        lambda: Tokens(nn.Embedding(7, 6)), (5,), ("blocks.0", "blocks.1", "head"), "int64"
    ),
    "volumes": Kind(Volumes, (1, 4, 4, 4), ("first", "second", "head")),
    "in-place": Kind(InPlace, (2, 8, 8), ("first", "second", "head")),
    "in-place-stage": Kind(InPlace, (2, 8, 8), ("second",)),
    "by-name": Kind(ByName, (6,), ("first", "second", "head")),
    "frames": Kind(Frames, (7, 4), ("first", "second", "head")),
    "vectors": Kind(Vectors, (6,), ("first", "second", "head")),
}


def left(why: str, *kinds: str) -> dict[str, str]:
    """These kinds are left alone for one reason."""
    return dict.fromkeys(kinds, why)


WITHOUT_KERNEL = {
    **left("a norm has no kernel", "batchnorm", "layernorm"),
    **left("methods of kernels do not read a recurrent layer's weight_ih_l0", "recurrent"),
}
NORMED = ("batchnorm", "layernorm", "transformer", "torch-transformer", "block")
WITHOUT_NORM = left("it has no norm", *(k for k in LAYERS if k not in NORMED))
ATTENTION = (
    "attention",
    "attention-batch-second",
    "cross-attention",
    "transformer",
    "torch-transformer",
)
WITHOUT_ATTENTION = left("it has no attention", *(k for k in LAYERS if k not in ATTENTION))

STAGES = tuple(name for name, kind in SPANS.items() if len(kind.levels) == 1)
NETWORKS = tuple(name for name in SPANS if name not in STAGES)
