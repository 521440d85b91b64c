"""Regular expressions have a time limit."""

from __future__ import annotations

import time

import pytest

from autotune.utils import patterns
from autotune.utils.patterns import compile_pattern, match_starts

SLOW = ["(a+)+b", "(a|aa)+b", "(a|a)*b", "(.*)*b", "((a*)*)*b"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.1)


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_that_backtracks_for_ever_is_refused(pattern):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"more than 0.1 s on names"):
        match_starts(pattern, ["a" * 60])
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<x>a)(?P<x>b)", "(" * 5000, r"\g", "*"])
def test_what_is_no_pattern_has_a_reason(pattern):
    with pytest.raises(ValueError, match=r"."):
        compile_pattern(pattern)


def test_names_that_match_at_their_start():
    matches = match_starts(r"layer(\d)", ["layer1.conv", "fc.layer1", "layer2.norm"])
    assert {name: match[1] for name, match in matches.items()} == {
        "layer1.conv": "1",
        "layer2.norm": "2",
    }
