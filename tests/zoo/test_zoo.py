"""Networks of all kinds: what was trained is what is delivered."""

from __future__ import annotations

import warnings

import pytest

from .families import FAMILIES
from .harness import Outcome, examine
from .odd import ODD

TWELVE = [
    *("transformers bert", "transformers gpt2", "transformers llama", "transformers gpt_neo"),
    *("transformers albert", "transformers deberta-v2", "transformers mobilebert"),
    *("transformers swin", "transformers beit", "transformers convnextv2"),
    *("timm test_vit", "timm test_efficientnet"),
]


def assert_right(outcome: Outcome) -> None:
    assert outcome.faults == []
    assert outcome.plans > 1
    assert outcome.cached <= 1e-6
    assert outcome.delivered <= 1e-6
    assert outcome.merged <= 1e-5
    assert outcome.seconds_to_trace < 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older weight norm of torch
@pytest.mark.parametrize("name", ODD)
def test_odd_networks(name: str):
    outcome = examine(ODD[name])
    assert_right(outcome)
    # Paths around a block of autocast cannot be cut off it.
    assert outcome.beyond <= 0.05 or name == "autocast inside"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the libraries
@pytest.mark.parametrize("name", TWELVE)
def test_families(name: str, monkeypatch):
    pytest.importorskip(name.split()[0])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        outcome = examine(FAMILIES[name], plans=4)
    assert_right(outcome)
    assert outcome.beyond <= 0.05
