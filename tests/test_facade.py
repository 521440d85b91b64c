"""The package's own names: these and no others, imported when they are asked for."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import autotune
from autotune import errors

NAMES = [
    "AutotuneError",
    "Best",
    "Budget",
    "Choice",
    "Comparison",
    "Cost",
    "Delta",
    "Event",
    "InputDescription",
    "MultiTask",
    "PathDelta",
    "Plan",
    "Preview",
    "Problem",
    "Site",
    "Slot",
    "Study",
    "WeightDelta",
    "adapted",
    "compare",
    "detach",
    "export_model",
    "load_adapted",
    "load_backbone",
    "load_task",
    "merge",
    "prepare",
    "preview",
    "resume",
    "search",
    "search_budgets",
    "switch",
]


def test_the_facade_has_exactly_these_names():
    assert autotune.__all__ == NAMES
    assert dir(autotune) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_facade_says_what_it_is(name):
    thing = getattr(autotune, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("autotune.")
    text = inspect.getdoc(thing) or ""
    assert text.split("\n")[0].endswith((".", ":", ";", ","))
    assert not text.startswith(f"{name}("), "a dataclass's own signature is no docstring"


def functions() -> Iterator[Any]:
    """The facade's functions, and the public methods and properties of its classes."""
    for name in NAMES:
        thing = getattr(autotune, name)
        if not inspect.isclass(thing):
            yield pytest.param(inspect.unwrap(thing), inspect.getdoc(thing) or "", id=name)
            continue
        for member_name, member in vars(thing).items():
            function = function_of(member)
            if function is not None and not member_name.startswith("_"):
                text = inspect.getdoc(getattr(thing, member_name)) or ""
                yield pytest.param(function, function.__doc__ or text, id=f"{name}.{member_name}")


def function_of(member: object) -> Callable[..., Any] | None:
    """What runs when a class's member is called or read."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, cached_property):
        return member.func
    member = getattr(member, "__func__", member)
    return member if inspect.isfunction(member) else None


@pytest.mark.parametrize(("function", "text"), [*functions()])
def test_a_function_says_what_it_does_takes_and_raises(function, text):
    assert text, "it has a docstring"
    for parameter in inspect.signature(function).parameters.values():
        if is_unclear(parameter) and "`to_json`" not in text:  # which tells what is read back
            word = parameter.name.rstrip("s")
            assert re.search(rf"\b{word}", text, re.I), f"{parameter.name} is not told"
    tree = ast.parse(dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            error = getattr(node.exc.func, "id", "")
            assert not hasattr(errors, error) or error in text, f"{error} is not told"


def is_unclear(parameter: inspect.Parameter) -> bool:
    """Whether the type, one of ours, does not say what it is."""
    if parameter.name in ("self", "cls") or parameter.kind is parameter.VAR_KEYWORD:
        return False
    types = set(re.findall(r"\w+", str(parameter.annotation))) - {"None"}
    return not types <= {*NAMES, "Evidence", "Flow"}


def test_a_star_import_gives_the_same_names():
    passed: dict[str, object] = {}
    exec("from autotune import *", passed)
    assert sorted(set(passed) - {"__builtins__"}) == NAMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'autotune' has no attribute 'serch'"):
        autotune.serch  # noqa: B018
    with pytest.raises(ImportError, match="serch"):
        exec("from autotune import serch")


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(inspect.getsource(autotune))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: node.module for node in imports for alias in node.names}
    assert seen == {name: f"autotune.{home}" for name, home in autotune._HOME.items()}


def test_importing_the_package_imports_no_module_of_it():
    code = "import autotune, sys; print([m for m in sys.modules if m.startswith('autotune.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PLUG_INS = (
    "autotune.problem",
    "autotune.deltas",
    "autotune.backbones",
    "autotune.study.strategies",
)
"""Packages that people who write plug-ins import from."""


@pytest.mark.parametrize("package", PLUG_INS)
def test_a_package_for_plug_ins_offers_what_it_lists(package):
    offered = import_module(package)
    for name in offered.__all__:
        thing = getattr(offered, name)
        home = getattr(thing, "__module__", package)
        assert home.startswith("autotune.") or name == "Grids"
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        offered.nothing  # noqa: B018


def test_documents_import_from_few_places():
    root = Path(__file__).parent.parent
    pages = [
        root / "README.md",
        *(root / "docs" / "howto").glob("*.md"),
        *(root / "docs").glob("*.md"),
    ]
    imports = {
        m
        for page in pages
        for m in re.findall(r"^from (autotune\S*) import", page.read_text(), re.M)
    }
    assert imports <= {"autotune", *PLUG_INS}
