"""`torchvision:NAME`: torchvision's classifiers, with their published weights or the user's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from autotune.backbones.base import Backbone, describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.sources.torchvision_import import import_torchvision
from autotune.backbones.weights.loading import StateDicts, load_weights, read_weights
from autotune.errors import BackboneError, UnknownName, first_line, unknown

FAMILIES = {
    "resnet": "resnet",
    "resnext": "resnet",
    "wide_resnet": "resnet",
    "mobilenet": "mobilenet",
    "convnext": "convnext",
    "densenet": "densenet",
    "efficientnet": "efficientnet",
    "vit": "vit",
    "swin": "swin",
}
"""Search space by the prefix of torchvision's name; any other network uses `any`."""


def load(
    name: str,
    *,
    weights: str | None = None,
    head: str | None = None,
    input: InputDescription | None = None,
    shapes_only: bool = False,
) -> Backbone:
    """Load a torchvision classifier.

    By default torchvision downloads the published weights; `weights` is `none` for random ones, or
    a file for `read_weights`. A network for images of one size is built for that of the weights, or
    of `input` if they are random. Raises `BackboneError` if the download fails, or for images of a
    size that the network or the weights do not take.
    """
    models = import_torchvision().models
    if name not in models.list_models(module=models):
        raise UnknownName(unknown("torchvision backbone", name, models.list_models(module=models)))
    published = models.get_model_weights(name).DEFAULT
    state, origin = _state(name, published, "none" if shapes_only else weights)
    size = image_size(name, published, _tensors(state or {}), input)
    network = _network(models, name, size, shapes_only)
    if state is not None:
        load_weights(network, state, source=origin, head=head)
    return describe(
        network,
        source=f"torchvision:{name}",
        family=next((f for start, f in FAMILIES.items() if name.startswith(start)), "any"),
        head=head,
        input=input or _described(published, size),
    )


def _state(name: str, published: Any, weights: str | None) -> tuple[StateDicts | None, str]:
    """State dicts of the weights, None for random ones, and where they come from."""
    if weights == "none":
        return None, weights
    if weights is not None:
        return read_weights(weights), weights
    return {"": _downloaded(name, published)}, str(published)


def _tensors(states: StateDicts) -> dict[str, torch.Tensor]:
    """Tensors of all entries by name."""
    return {name: tensor for state in states.values() for name, tensor in state.items()}


def image_size(
    name: str,
    published: Any,
    state: Mapping[str, torch.Tensor] | None,
    input: InputDescription | None,
) -> int:
    """Side of the images that the network is built for, in pixels."""
    described = input.size if input is not None else None
    wanted = (described or published.transforms().crop_size)[0]
    embedding, kernel = (_ending(state or {}, key) for key in _VIT_KEYS)
    if not name.startswith("vit_") or embedding is None or kernel is None:
        return int(wanted)
    size = math.isqrt(embedding.shape[1] - 1) * kernel.shape[-1]
    if described not in (None, (size, size)):
        raise BackboneError(
            f"Images for torchvision:{name} must have the size of its weights, {size}, the input "
            f"is described with {described}. Describe {size}, or give other --weights."
        )
    return size


def _ending(state: Mapping[str, torch.Tensor], key: str) -> torch.Tensor | None:
    return next((tensor for name, tensor in state.items() if name.endswith(key)), None)


_VIT_KEYS = ("encoder.pos_embedding", "conv_proj.weight")
"""Position embedding (1, 1 + patches, width) and patches (width, 3, side, side) of `vit_*`."""


def _network(models: Any, name: str, size: int, shapes_only: bool) -> nn.Module:
    try:
        if shapes_only and not name.startswith(_READ_TENSORS):
            with torch.device("meta"):
                return _built(models, name, size)
        return _built(models, name, size)
    except (ValueError, AssertionError) as error:
        raise BackboneError(
            f"torchvision:{name} cannot be built for images of {size} pixels "
            f"({first_line(error)}). Describe another size with --input."
        ) from error


def _built(models: Any, name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _WITH_AUXILIARY:
        options = {"aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    elif name.startswith("maxvit"):
        options = {"input_size": (size, size)}
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


_WITH_AUXILIARY = ("googlenet", "inception_v3")  # have auxiliary classifiers by default
_READ_TENSORS = ("regnet",)  # read tensors while they are built, so the meta device is no use


def _downloaded(name: str, published: Any) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = published.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise BackboneError(
            f"The weights of torchvision:{name} must be downloaded, which failed ({error}). "
            "Give a file with --weights FILE.safetensors, or --weights none for random ones."
        ) from error
    return state


def _described(published: Any, crop: int) -> InputDescription:
    """Input of the published weights, with images of `crop` pixels."""
    preset = published.transforms()
    resize = round(preset.resize_size[0] * crop / preset.crop_size[0])
    return InputDescription(
        size=(crop, crop),
        channels=len(preset.mean),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=resize,
        interpolation=preset.interpolation.value,
    )
