"""The package's own names: these and no others, imported when they are asked for."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import autotune

NAMES = [
    "AutotuneError",
    "Best",
    "Budget",
    "Choice",
    "Comparison",
    "Cost",
    "Delta",
    "InputDescription",
    "MultiTask",
    "Parametrized",
    "Path",
    "Plan",
    "Problem",
    "Site",
    "Slot",
    "Study",
    "adapted",
    "compare",
    "detach",
    "export_model",
    "load_adapted",
    "load_backbone",
    "load_task",
    "merge",
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


def test_a_star_import_gives_the_same_names():
    given: dict[str, object] = {}
    exec("from autotune import *", given)
    assert sorted(set(given) - {"__builtins__"}) == NAMES


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
