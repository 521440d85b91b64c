"""A table of names loads what is asked for, and says what it knows when it has no such name."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest

from autotune.backends import BACKENDS
from autotune.deltas import METHODS
from autotune.errors import AutotuneError, NotBuilt, UnknownName, unknown
from autotune.registry import Registry
from autotune.strategies import STRATEGIES

SHAPES = Registry(
    "shape",
    {"square": "fractions:Fraction", "circle": "no.such.module:Circle"},
    reserved={"cube": "Use square."},
)


def test_names_stand_in_the_order_of_the_table():
    assert SHAPES.names() == ("square", "circle")
    assert "cube" not in SHAPES.names()


def test_a_known_name_is_loaded():
    assert SHAPES.load("square") is Fraction


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownName) as error:
        SHAPES.load("sqare")
    assert str(error.value) == (
        "There is no shape named 'sqare'. Did you mean 'square'? Known: circle, square."
    )
    assert isinstance(error.value, LookupError)
    assert isinstance(error.value, AutotuneError)


def test_a_name_that_is_near_to_none_gets_the_list_alone():
    assert unknown("shape", "xyz", ["b", "a"]) == "There is no shape named 'xyz'. Known: a, b."


def test_a_reserved_name_says_that_it_is_not_built_and_what_to_use():
    for ask in (SHAPES.check, SHAPES.load):
        with pytest.raises(NotBuilt, match=r"'cube' is reserved but not built yet\. Use square\."):
            ask("cube")


def test_checking_a_name_imports_nothing():
    SHAPES.check("circle")
    with pytest.raises(ModuleNotFoundError):
        SHAPES.load("circle")


LAZY = """
import sys
from autotune.backends import BACKENDS
from autotune.strategies import STRATEGIES
STRATEGIES.check("tpe"), BACKENDS.check("inline"), STRATEGIES.names()
print({"optuna", "autotune.strategies.tpe", "autotune.backends.inline"} & set(sys.modules))
BACKENDS.load("inline")
print("autotune.backends.inline" in sys.modules)
"""


def test_nothing_is_imported_before_load():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True"]


def test_a_table_does_not_change_with_the_mapping_it_was_made_from():
    entries = {"square": "fractions:Fraction"}
    table = Registry("shape", entries)
    entries.clear()
    assert table.names() == ("square",)


@pytest.mark.parametrize("table", [METHODS, STRATEGIES, BACKENDS], ids=lambda table: table.kind)
def test_every_name_of_a_family_loads(table):
    assert table.names()
    assert all(callable(table.load(name)) for name in table.names())


@pytest.mark.parametrize("table", [STRATEGIES, BACKENDS], ids=lambda table: table.kind)
def test_every_reserved_name_of_a_family_points_to_what_can_be_used(table):
    assert table.reserved
    for name in table.reserved:
        with pytest.raises(NotBuilt, match=f"{table.kind} '{name}' is reserved .* Use "):
            table.load(name)
