"""Descriptions of a backbone's input: images of some size and normalisation, or plain arrays."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autotune.errors import ConfigError
from autotune.utils.colors import WHITE, opaque_rgb

MAX_VALUES = 2**28
"""Largest number of values in one example: 1 GiB in float32."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class InputDescription:
    """Images (`size`, `channels`, `mean`, `std`) or, with `shape` and `dtype` alone, arrays."""

    size: tuple[int, int] | None = None
    """Height and width in pixels."""

    channels: int = 3
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """uint8 images become (x / 255 - mean) / std, with one mean and std per channel."""

    resize: int | None = None
    """Length of the shorter side before the centre crop; None means `size`."""

    interpolation: str = "bilinear"

    shape: tuple[int, ...] | None = None
    """Shape of one example, for inputs that are not images."""

    dtype: str = "float32"
    """dtype in which the network takes its inputs, normalised images among them."""

    bits: int | None = None
    """Bits that the values of grey images with more than 8 bits use; None means all of them."""

    background: str = WHITE
    """Colour that is seen where an image is transparent."""

    def __post_init__(self) -> None:
        if (self.size is None) == (self.shape is None):
            raise ConfigError("An input description needs 'size' (images) or 'shape' (arrays).")
        shape = self.example_shape
        if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > MAX_VALUES:
            raise ConfigError(
                f"An example must have 1 to {MAX_VALUES:,} values, got the shape {list(shape)}."
            )
        if not isinstance(getattr(torch, str(self.dtype), None), torch.dtype):
            raise ConfigError(f"An input's dtype must be a torch dtype, got {self.dtype!r}.")
        if self.size is not None and len({len(self.mean), len(self.std), self.channels}) > 1:
            raise ConfigError(
                f"An input description needs one mean and std per channel, got {self.channels} "
                f"channels, {len(self.mean)} means and {len(self.std)} stds."
            )
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ConfigError(f"Interpolation must be one of {known}, got {self.interpolation!r}.")
        if self.bits is not None and self.bits not in range(8, 33):
            raise ConfigError(f"Deep images have 8 to 32 bits, got {self.bits!r}.")
        self._check_background()

    def _check_background(self) -> None:
        try:
            opaque_rgb(self.background)
        except (ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"The background of images must be a colour: {error}.") from error

    @property
    def is_image(self) -> bool:
        """Whether it describes images, not arrays of some shape."""
        return self.size is not None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example as the network receives it, without the batch dimension."""
        if self.size is not None:
            return (self.channels, *self.size)
        assert self.shape is not None
        return self.shape

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `images` (n, channels, height, width) → floats of the same shape and device.

        Floats are in 0..1, not yet normalised. All are computed in float32, or in float64 if the
        network takes that.
        """
        device, dtype = images.device, getattr(torch, self.dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        # For a divisor that is a number, a GPU multiplies by the rounded 1 / 255: use a tensor.
        white = torch.tensor(255.0, device=device, dtype=exact)
        mean = torch.tensor(self.mean, device=device, dtype=exact).view(-1, 1, 1)
        std = torch.tensor(self.std, device=device, dtype=exact).view(-1, 1, 1)
        levels = images.to(exact) if images.is_floating_point() else images.to(exact).div_(white)
        floats = levels.sub(mean).div_(std)
        return floats.to(dtype) if dtype.is_floating_point else floats

    def normalised(self, images: Tensor) -> Tensor:
        """Images like `normalise`, in float32, in which parts keep their inputs."""
        return replace(self, dtype="float32").normalise(images)

    def as_taken(self, inputs: Tensor) -> Tensor:
        """Inputs as the network takes them: uint8 normalised, floats in the network's dtype."""
        if inputs.dtype == torch.uint8:
            return self.normalise(inputs)
        dtype = getattr(torch, self.dtype)
        is_float = inputs.is_floating_point() and dtype.is_floating_point
        return inputs.to(dtype) if is_float else inputs

    def to_json(self) -> dict[str, Any]:
        """Fields as a JSON mapping, without those that do not apply to this kind of input."""
        if self.is_image:
            usual = {"dtype": "float32", "bits": None, "background": WHITE}
            fields = {k: v for k, v in asdict(self).items() if k != "shape"}
            return {k: v for k, v in fields.items() if k not in usual or v != usual[k]}
        return {"shape": self.shape, "dtype": self.dtype}


def some_inputs(input: InputDescription, n: int = 4, *, seed: int = 0) -> Tensor:
    """Random batch that fits the description, (n, ...): normal noise, or 0 and 1 for integers."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, input.dtype)
    shape = (n, *input.example_shape)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(2, shape, generator=generator).to(dtype)


def read_input(data: object, *, source: str) -> InputDescription:
    """Read a mapping with the keys of `InputDescription`; `size` may be one number."""
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
