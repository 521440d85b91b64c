"""`torchvision:NAME`: torchvision's classifiers, with their published weights or the user's."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from autotune.backbones.base import Backbone, describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.torchvision_import import import_torchvision
from autotune.backbones.weights import load_weights, read_weights
from autotune.errors import BackboneError, UnknownName, unknown

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
    a file for `read_weights`. Raises `BackboneError` if the download fails.
    """
    models = import_torchvision().models
    if name not in models.list_models(module=models):
        raise UnknownName(unknown("torchvision backbone", name, models.list_models(module=models)))
    published = models.get_model_weights(name).DEFAULT
    return describe(
        _network(models, name, published, weights, head, shapes_only),
        source=f"torchvision:{name}",
        family=next((f for start, f in FAMILIES.items() if name.startswith(start)), "any"),
        head=head,
        input=input or _described(published),
    )


def _network(
    models: Any, name: str, published: Any, weights: str | None, head: str | None, shapes: bool
) -> nn.Module:
    if shapes and not name.startswith(_READ_TENSORS):
        with torch.device("meta"):
            return _built(models, name)
    if weights == "none" or shapes:
        return _built(models, name)
    if weights is not None:
        states = read_weights(weights)
        return load_weights(_built(models, name), states, source=weights, head=head)
    state = _downloaded(name, published)
    return load_weights(_built(models, name), state, source=str(published), head=head)


def _built(models: Any, name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name in _WITH_AUXILIARY else {}
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


def _described(published: Any) -> InputDescription:
    preset = published.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return InputDescription(
        size=(crop, crop),
        channels=len(preset.mean),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=resize,
        interpolation=preset.interpolation.value,
    )
