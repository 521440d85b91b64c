"""A table of names loads what is asked for, and says what it knows when it has no such name."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from fractions import Fraction

import pytest

from autotune.deltas import METHODS
from autotune.errors import AutotuneError, NotBuilt, UnknownName, unknown
from autotune.study.backends import BACKENDS
from autotune.study.strategies import STRATEGIES
from autotune.utils.registry import Registry

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
from autotune.study.backends import BACKENDS
from autotune.study.strategies import STRATEGIES
STRATEGIES.check("tpe"), BACKENDS.check("inline"), STRATEGIES.names()
early = {"optuna", "autotune.study.strategies.tpe", "autotune.study.backends.inline"}
print(early & set(sys.modules))
BACKENDS.load("inline")
print("autotune.study.backends.inline" in sys.modules)
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


# names that other packages add

GROUP = "autotune.deltas"
MODULE = """
from collections.abc import Mapping
class Half(Mapping): ...
number = 3
"""


def table(base: str = "builtins:object") -> Registry:
    return Registry("shape", {"square": "fractions:Fraction"}, group=GROUP, base=base)


def test_names_of_other_packages_follow_ours(install):
    install("far", {"star": "collections:UserDict"})
    install("near", {"oval": "collections:OrderedDict"})
    assert table().names() == ("square", "oval", "star")
    assert table().load("oval") is OrderedDict
    assert [table().package(name) for name in table().names()] == ["autotune", "near", "far"]


def test_a_table_without_a_group_has_its_own_names_alone(install):
    install("near", {"oval": "collections:OrderedDict"})
    assert "oval" not in SHAPES.names()


def test_our_name_is_kept_and_theirs_is_warned_of(install, caplog):
    install("near", {"square": "collections:OrderedDict"})
    shapes = table()
    assert shapes.load("square") is Fraction
    assert shapes.names() == ("square",)
    assert caplog.messages == [
        "The shape 'square' of the package near is left out: autotune has that name already. "
        "Rename it there."
    ]


def test_of_two_packages_with_one_name_the_first_on_the_path_has_it(install, caplog):
    install("second", {"oval": "collections:UserDict"})
    install("first", {"oval": "collections:OrderedDict"})
    assert table().load("oval") is OrderedDict
    assert len(caplog.messages) == 1
    assert "'oval' of the package second is left out: first has that name" in caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module:Oval", "must load, no_such_module:Oval does not (ModuleNotFoundError: "),
        ("near_shapes:Ovall", "must load, near_shapes:Ovall does not (AttributeError: "),
        ("broken_shapes:Oval", "must load, broken_shapes:Oval does not (ZeroDivisionError: "),
        ("near_shapes", "must be a subclass of Mapping, near_shapes is not"),
        ("near_shapes:number", "must be a subclass of Mapping, near_shapes:number is not"),
        ("near_shapes:Half", "must be complete, near_shapes:Half lacks __getitem__, __iter__, "),
    ],
)
def test_a_broken_name_of_another_package_is_refused_when_it_is_asked_for(install, place, message):
    install("near", {"oval": place}, near_shapes=MODULE, broken_shapes="1 / 0")
    shapes = table(base="collections.abc:Mapping")
    assert shapes.names() == ("square", "oval")
    shapes.check("oval")
    with pytest.raises(UnknownName) as error:
        shapes.load("oval")
    assert str(error.value).startswith(f"The shape 'oval' of the package near {message}")
    assert str(error.value).endswith("Fix or uninstall that package.")


def test_what_another_package_adds_is_not_imported_before_load(install):
    install("near", {"oval": "lazy_shapes:Oval"}, lazy_shapes="class Oval: ...")
    shapes = table()
    assert shapes.names() and shapes.package("oval") == "near"
    assert "lazy_shapes" not in sys.modules
    assert shapes.load("oval").__name__ == "Oval"
    assert "lazy_shapes" in sys.modules


def test_methods_are_what_other_packages_may_add():
    assert METHODS.group == GROUP
    assert METHODS.base == "autotune.deltas.base:Delta"
