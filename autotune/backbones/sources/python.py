"""`python:MODULE-or-FILE:FUNCTION`: a network that a function of the user returns."""

from __future__ import annotations

from autotune.backbones.base import Backbone, describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.weights.loading import load_weights, read_weights
from autotune.utils.user_code import call_source


def load(
    name: str,
    *,
    weights: str | None = None,
    head: str | None = None,
    input: InputDescription | None = None,
    shapes_only: bool = False,
) -> Backbone:
    """Load the network that the named function returns when called without arguments."""
    network = call_source(name, what="backbone")
    if weights not in (None, "none") and not shapes_only:
        assert weights is not None
        network = load_weights(network, read_weights(weights), source=weights, head=head)
    return describe(network, source=f"python:{name}", family="any", head=head, input=input)
