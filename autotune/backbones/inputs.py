"""What a backbone takes as input: pictures of some size and scale, or plain arrays."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autotune.errors import ConfigError

MOST = 2**28
"""Values of one example."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class InputDescription:
    """Pictures (`size`, `channels`, `mean`, `std`) or, with `shape` and `dtype` alone, arrays."""

    size: tuple[int, int] | None = None
    """Height and width in pixels."""

    channels: int = 3
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Pictures of uint8 become (x / 255 - mean) / std, one number a channel."""

    resize: int | None = None
    """Length of the shorter side before the centre is cut out; `size` itself when None."""

    interpolation: str = "bilinear"

    shape: tuple[int, ...] | None = None
    """Shape of one example, for inputs that are no pictures."""

    dtype: str = "float32"

    def __post_init__(self) -> None:
        if (self.size is None) == (self.shape is None):
            raise ConfigError("An input description needs 'size' (pictures) or 'shape' (arrays).")
        shape = self.example_shape
        if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > MOST:
            raise ConfigError(f"An example has up to {MOST:,} values, {list(shape)} is none.")
        if not isinstance(getattr(torch, str(self.dtype), None), torch.dtype):
            raise ConfigError(f"An input's dtype must be one of torch's, got {self.dtype!r}.")
        if self.size is not None and len({len(self.mean), len(self.std), self.channels}) > 1:
            raise ConfigError(
                f"An input description needs one mean and std a channel, got {self.channels} "
                f"channels, {len(self.mean)} means and {len(self.std)} stds."
            )
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ConfigError(f"Interpolation must be one of {known}, got {self.interpolation!r}.")

    @property
    def is_picture(self) -> bool:
        """Whether it describes pictures, not arrays of some shape."""
        return self.size is not None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example as the network sees it, without the batch."""
        if self.size is not None:
            return (self.channels, *self.size)
        assert self.shape is not None
        return self.shape

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `images` (n, channels, height, width) → float32 of the same shape and device."""
        device = images.device
        # A GPU multiplies by the rounded 1 / 255 where the divisor is a number, not a tensor.
        most = torch.tensor(255.0, device=device)
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=device).view(-1, 1, 1)
        return images.float().div_(most).sub_(mean).div_(std)

    def to_json(self) -> dict[str, Any]:
        """Only the keys that mean something for this kind of input."""
        if self.is_picture:
            return {k: v for k, v in asdict(self).items() if k not in ("shape", "dtype")}
        return {"shape": self.shape, "dtype": self.dtype}


def some_inputs(input: InputDescription, n: int = 4, *, seed: int = 0) -> Tensor:
    """A batch that a network takes, (n, ...): noise; of whole numbers only 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, input.dtype)
    shape = (n, *input.example_shape)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(2, shape, generator=generator).to(dtype)


def read_input(data: object, *, source: str) -> InputDescription:
    """A mapping with the keys of `InputDescription`; `size` may be one number."""
    if not isinstance(data, dict):
        raise ConfigError(f"An input description must be a mapping with 'size', {source} is not.")
    known = set(InputDescription.__dataclass_fields__)
    if unknown := sorted(set(data) - known):
        raise ConfigError(
            f"{source} has unknown keys: {', '.join(map(str, unknown))}. "
            f"Known: {', '.join(sorted(known))}."
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    if isinstance(values.get("size"), int):
        values["size"] = (values["size"],) * 2
    try:
        return InputDescription(**values)
    except TypeError as error:
        raise ConfigError(f"{source} is no input description: {error}.") from error
