"""Load what settings name: the backbone with its units, the task, the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe, require_values, with_head
from autotune.backbones.dataflow import trace
from autotune.backbones.heads.factory import load_head_factory
from autotune.backbones.heads.finding import find_head
from autotune.backbones.inputs import InputDescription
from autotune.backbones.left_out import EXCLUDED, FROZEN, SWAPPED, UNUSED, left_out
from autotune.backbones.spans import with_spans
from autotune.backbones.units import Units, find_units
from autotune.backbones.usage import (
    excluded_parameters,
    frozen_parameters,
    swapped_parameters,
    unused_parameters,
)
from autotune.errors import ConfigError, first_line
from autotune.problem.search_space import SearchSpace
from autotune.run.settings import OBJECT, Settings, load_input, load_space
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.tasks.loading import batches
from autotune.tasks.options import DataOptions
from autotune.tasks.part import Part
from autotune.tasks.python import as_task
from autotune.utils.events import tell, warn


def find_backbone(settings: Settings, backbone: Any, *, shapes_only: bool = False) -> Backbone:
    """Load the backbone of a source or object, with its input description and head factory."""
    loaded, factory = _loaded(settings, backbone, shapes_only), settings.head_factory
    loaded = _on_background(loaded, settings.background_color)
    if factory is None:
        return loaded
    named = load_head_factory(factory) if isinstance(factory, str) else factory
    return replace(loaded, head_factory=named)


def _on_background(backbone: Backbone, color: str) -> Backbone:
    """The backbone with the colour that is seen where an image is transparent."""
    input = backbone.input
    if input is None or not input.is_image or input.background == color:
        return backbone
    return replace(backbone, input=replace(input, background=color))


def _loaded(settings: Settings, backbone: Any, shapes_only: bool) -> Backbone:
    described = load_input(settings.input)
    if isinstance(backbone, Backbone):
        require_values(backbone.network, backbone.source)
        return backbone
    if isinstance(backbone, nn.Module):
        require_values(backbone, OBJECT)
        return describe(backbone, source=OBJECT, family="any", head=settings.head, input=described)
    loaded = load_backbone(
        backbone,
        weights=settings.weights,
        head=settings.head,
        input=described,
        shapes_only=shapes_only,
    )
    if not shapes_only:
        require_values(loaded.network, loaded.source)
    return loaded


OBSERVED_EXAMPLES = 16
"""Training examples on which a network is run to see what it uses.

More than one batch of two, as a mixture of experts uses some of them for some examples alone.
"""


def settle_head(settings: Settings, backbone: Backbone, examples: Sequence[Tensor]) -> Backbone:
    """The backbone with the head that is found on the task's own examples, unless it was named."""
    if settings.head is not None:
        return backbone
    head = find_head(backbone.network, examples[0])
    return backbone if head == backbone.head else with_head(backbone, head)


def leave_out(
    settings: Settings, backbone: Backbone, space: SearchSpace, examples: Sequence[Tensor]
) -> Backbone:
    """The backbone without the parameters that it does not use, or that the user protects.

    Raises `ConfigError` if nothing is left to tune, or a pattern to exclude matches nothing.
    """
    unused = unused_parameters(backbone.network, examples)
    patterns = [*space.exclude, *filter(None, [settings.exclude])]
    protected = dict.fromkeys(excluded_parameters(backbone.network, patterns), EXCLUDED)
    if not settings.unfreeze:
        protected |= dict.fromkeys(frozen_parameters(backbone.network), FROZEN)
    protected |= dict.fromkeys(swapped_parameters(backbone.network, examples), SWAPPED)
    settled = replace(backbone, unused=unused, protected=protected)
    if not settled.tunable():
        raise ConfigError(
            "A search needs parameters that may change, all that are in use are frozen or "
            "excluded. Give --unfreeze, or leave --exclude out."
        )
    _tell_unused(settled)
    return settled


def _tell_unused(backbone: Backbone) -> None:
    parts = [part for part in left_out(backbone) if part.reason == UNUSED]
    if n := sum(part.parameters for part in parts):
        used = sum(parameter.numel() for parameter in backbone.parameters().values())
        names = ", ".join(part.name for part in parts[:3])
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        tell(
            "unused",
            f"The network has {used:,} parameters in use without its head, and {n:,} that it does "
            f"not use ({names}{more}), which are no part of the 100 %.",
        )


def some_examples(backbone: Backbone, part: Part, input: InputDescription | None) -> list[Tensor]:
    """The first inputs of a part in batches of two, on the backbone's device."""
    few = part.take(np.arange(min(OBSERVED_EXAMPLES, len(part))))
    device = next(backbone.network.parameters()).device
    return [inputs for inputs, _ in batches(few, 2, input=input, device=device)]


def find_space(settings: Settings, backbone: Backbone) -> SearchSpace:
    """The search space that is named, or that of the backbone's family."""
    return load_space(settings.space or backbone.family)


def find_choices(
    settings: Settings, backbone: Backbone, input: InputDescription | None
) -> tuple[SearchSpace, Units]:
    """Search space with its units and spans of the backbone; no spans if the input is unknown."""
    space = find_space(settings, backbone)
    patterns = getattr(space.units, settings.granularity)
    units = find_units(backbone, patterns, granularity=settings.granularity)
    if input is None:
        return space, units
    try:
        flow = trace(backbone.network, input)
    except Exception as error:  # the network's code may raise anything
        first = first_line(error)
        warn(f"The network cannot be traced, so no method that adds a path is offered: {first}")
        return space, units
    return space, with_spans(backbone, units, space.units, flow)


def choose_device(name: str) -> str:
    """Device of a name; `auto` is the first GPU or the CPU. `ConfigError` if it is missing."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        first = first_line(error)
        raise ConfigError(
            f"A device must be available, {name!r} is not ({first}). Use cpu."
        ) from error
    return name


def find_task(settings: Settings, task: Any, backbone: Backbone) -> Task:
    """Load the task of a source or object, with inputs as the backbone takes them."""
    options = data_options(settings)
    if options.group is not None and not (
        isinstance(task, str) and task.startswith("imagefolder:")
    ):
        raise ConfigError(
            "--group is a level of folders of imagefolder:, the task is another. Leave it out; "
            "an npz: file may have arrays group_train, group_val and group_test."
        )
    if isinstance(task, str):
        return load_task(task, backbone.input, options)
    return as_task(task, OBJECT, backbone.input, options)


def data_options(settings: Settings) -> DataOptions:
    """Options with which the data of a search are read."""
    return DataOptions(settings.skip_bad, settings.skip_unlabelled, settings.group)
