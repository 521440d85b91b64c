"""Imports point down: a ground, two wings that do not know each other, a rim that joins them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import autotune

FOLDER = Path(autotune.__file__).parent
ROOT = "autotune"
FLOORS = {
    "ground": "errors registry budget plan problem knapsack pairs sizes space trial files events "
    "disks timings interrupts table",
    "network": "backbones deltas tasks adapt candidates criteria data digits engine artifact "
    "evidence footprint metrics oneshot preparation profiling proxies source supernet training "
    "torchvision trunk swap fitting mount multitask",
    "search": "strategies policy backends lease run records references placements rivals finalists "
    "front profiles stopping storage mirror study importances adoption",
    "rim": "__main__ config given setup settling reuse learning sitting standing workers report "
    "sinks runs notebook api comparison export use doctor serve inspection cli",
}
BELOW = {
    "ground": {"ground"},
    "network": {"network", "ground"},
    "search": {"search", "ground"},
    "rim": {"rim", "search", "network", "ground"},
}
FACADE = {f"{ROOT}.{name}" for name in autotune.__all__}
"""All of the root but `__version__`, which packaging reads there and the command line shows."""

IN_A_TABLE = re.compile(rf"{ROOT}(\.\w+)+:\w+")


def name_of(path: Path) -> str:
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text() for path in sorted(FOLDER.rglob("*.py"))}


def floors_of(module: str) -> list[str]:
    """The floors that hold a module; the package root is part of the rim."""
    if module == ROOT:
        return ["rim"]
    part = module.split(".")[1]
    return [floor for floor, held in FLOORS.items() if part in held.split()]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below `node` that runs: both at import and inside functions."""
    for child in ast.iter_child_nodes(node):
        if is_for_types_only(child):
            yield from (s for other in child.orelse for s in (other, *statements(other)))
            continue
        yield child
        yield from statements(child)


def imports(source: str) -> set[str]:
    """Full names of what a module imports: `a.b` for `import a.b`, `from a import b` and "a:b"."""
    found = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Constant) and IN_A_TABLE.fullmatch(str(node.value)):
            found.add(node.value.replace(":", "."))
    return found


IMPORTS = {module: imports(source) for module, source in SOURCES.items()}


def module_of(name: str) -> str:
    """The module of ours that an imported name lives in: the longest known prefix."""
    while name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


def ours(module: str) -> set[str]:
    """Modules of this package that `module` imports."""
    return {module_of(name) for name in IMPORTS[module] if name.split(".")[0] == ROOT}


def foreign(module: str) -> set[str]:
    """Top-level names of everything else that it imports."""
    return {name.split(".")[0] for name in IMPORTS[module]} - {ROOT}


def users(library: str) -> set[str]:
    return {module for module in SOURCES if library in foreign(module)}


def on(*floors: str) -> set[str]:
    return {module for module in SOURCES if set(floors_of(module)) & set(floors)}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_reading_imports_sees_functions_and_tables_and_leaves_out_types():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import optuna
else:
    import json
def late():
    from torch.nn import Linear
    import a.b as c
TABLE = {"tpe": "autotune.strategies.tpe:tpe"}
"""
    names = {
        "typing.TYPE_CHECKING",
        "json",
        "torch.nn.Linear",
        "a.b",
        "autotune.strategies.tpe.tpe",
    }
    assert imports(source) == names


def test_every_module_is_on_exactly_one_floor():
    homeless = {m: floors_of(m) for m in SOURCES if len(floors_of(m)) != 1}
    assert not homeless, (
        f"Name each of these on exactly one floor ({', '.join(FLOORS)}) of FLOORS in this test; "
        f"they are on: {homeless}"
    )


def test_every_name_on_a_floor_is_a_module():
    parts = {module.split(".")[1] for module in SOURCES if module != ROOT}
    assert parts == {part for held in FLOORS.values() for part in held.split()}


def test_imports_point_down():
    for module in SOURCES:
        (floor,) = floors_of(module)
        wrong = {m for m in ours(module) if not set(floors_of(m)) <= BELOW[floor]}
        assert not wrong, f"{module} is on the floor {floor!r} and must not import {sorted(wrong)}"


def test_nobody_inside_imports_the_package_root():
    for module, names in IMPORTS.items():
        from_root = names & {ROOT, *FACADE}
        assert not from_root, f"{module} must import the sibling module, not {sorted(from_root)}"


def test_there_are_no_import_cycles():
    graph = {m: ours(m) - {m} for m in SOURCES}
    assert cycle(graph) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_torch_is_unknown_to_the_ground_and_to_the_search_wing():
    """But for the policy's own small network, which no sampler needs."""
    policy = {f"{ROOT}.policy.{name}" for name in ("gates", "network", "policy")}
    for library in ("torch", "torchvision"):
        assert users(library)
        assert not users(library) & (on("ground", "search") - policy)
    assert not policy & ours(f"{ROOT}.strategies.policy")


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("optuna", on("search")),
        ("yaml", {"autotune.config"}),
        ("ray", {"autotune.backends.ray"}),  # the doctor starts it in a process of its own
        ("sqlalchemy", {"autotune.storage"}),
    ],
)
def test_a_foreign_library_has_few_doors(library, doors):
    assert users(library) <= doors


HELP = """
import json, sys
from autotune.cli.app import app
app(["--help"], standalone_mode=False)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert any("Usage" in line for line in shown)
    heavy = {"torch", "optuna", "ray", "torchvision trunk", "sklearn", "pydantic"}
    assert not heavy & set(json.loads(last))
