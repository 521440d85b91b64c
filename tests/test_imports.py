"""Imports point down, from the command line to plain values, and never in a circle."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import autotune

FOLDER = Path(autotune.__file__).parent
ROOT = "autotune"
FLOORS = [
    {"errors"},
    {"utils"},
    {"problem"},
    {"backbones", "study"},
    {"tasks", "deltas"},
    {"training", "run"},
    {"session"},
    {"deploy"},
    {"cli"},
]
"""From the ground up; parts of one floor do not know each other."""

DOORS = {ROOT, f"{ROOT}.__main__"}
"""Above all floors: what users import, and what `python -m` starts."""

SEARCH = {"problem", "study"}
"""Parts that know names, numbers and Optuna, and nothing of networks."""

FACADE = {f"{ROOT}.{name}" for name in autotune.__all__}
"""All of the root but `__version__`, which packaging reads there and the command line shows."""

IN_A_TABLE = re.compile(rf"{ROOT}(\.\w+)+:\w+")


def name_of(path: Path) -> str:
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text() for path in sorted(FOLDER.rglob("*.py"))}


def part_of(module: str) -> str:
    """The folder or file at the top of the package that a module belongs to."""
    return module.split(".")[1]


def floors_of(part: str) -> list[int]:
    return [number for number, parts in enumerate(FLOORS) if part in parts]


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


def imports(source: str, *, types: bool = False) -> set[str]:
    """Full names of what a module imports: `a.b` for `import a.b`, `from a import b` and "a:b".

    With `types`, imports for types alone count, too.
    """
    imports = set()
    for node in (ast.walk if types else statements)(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Constant) and IN_A_TABLE.fullmatch(str(node.value)):
            imports.add(node.value.replace(":", "."))
    return imports


IMPORTS = {module: imports(source) for module, source in SOURCES.items()}
NAMED = {module: imports(source, types=True) for module, source in SOURCES.items()}


def module_of(name: str) -> str:
    """The module of ours that an imported name lives in: the longest known prefix."""
    while name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


def ours(module: str, graph: Mapping[str, set[str]] = IMPORTS) -> set[str]:
    """Modules of this package that `module` imports."""
    return {module_of(name) for name in graph[module] if name.split(".")[0] == ROOT}


def foreign(module: str) -> set[str]:
    """Top-level names of everything else that it imports."""
    return {name.split(".")[0] for name in IMPORTS[module]} - {ROOT}


def users(library: str) -> set[str]:
    return {module for module in SOURCES if library in foreign(module)}


def inside(*parts: str) -> set[str]:
    return {module for module in SOURCES if module not in DOORS and part_of(module) in parts}


def below(folder: str, module: str) -> str | None:
    """The file or folder directly inside `folder` that holds a module."""
    prefix = folder + "."
    return module[len(prefix) :].split(".")[0] if module.startswith(prefix) else None


def neighbours(folder: str) -> dict[str, set[str]]:
    """What lies directly inside a folder, and what of that it imports, also for types alone."""
    graph: dict[str, set[str]] = {}
    for module in SOURCES:
        if (own_part := below(folder, module)) is not None:
            imported = {below(folder, other) for other in ours(module, NAMED)} - {None, own_part}
            graph.setdefault(own_part, set()).update(name for name in imported if name)
    return graph


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
TABLE = {"tpe": "autotune.study.strategies.tpe:tpe"}
"""
    names = {
        "typing.TYPE_CHECKING",
        "json",
        "torch.nn.Linear",
        "a.b",
        "autotune.study.strategies.tpe.tpe",
    }
    assert imports(source) == names


def test_every_part_is_on_exactly_one_floor():
    parts = {part_of(module) for module in SOURCES if module not in DOORS}
    wrong = {part: floors_of(part) for part in parts if len(floors_of(part)) != 1}
    assert not wrong, f"Name each of these on exactly one floor of FLOORS: {wrong}"
    assert parts == set().union(*FLOORS)


def test_imports_point_down():
    for module in SOURCES:
        if module in DOORS:
            continue
        own_part = part_of(module)
        lower = set().union(*FLOORS[: floors_of(own_part)[0]], {own_part})
        wrong = {other for other in ours(module) if part_of(other) not in lower}
        assert not wrong, f"{module} must import from below {own_part!r}, not {sorted(wrong)}"


def test_nobody_inside_imports_the_package_root():
    for module, names in IMPORTS.items():
        from_root = names & {ROOT, *FACADE}
        assert not from_root, f"{module} must import the sibling module, not {sorted(from_root)}"


def test_there_are_no_import_cycles():
    graph = {m: ours(m, NAMED) - {m} for m in SOURCES}
    assert cycle(graph) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("folder", sorted({m.rpartition(".")[0] for m in SOURCES} - {""}))
def test_what_lies_in_a_folder_imports_in_no_circle(folder):
    assert cycle(neighbours(folder)) == []


def test_the_top_is_eleven_folders_and_four_files():
    top = {path.name for path in FOLDER.iterdir() if not path.name.startswith("__pycache__")}
    files = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
    assert top - {"search_spaces"} == files | (set().union(*FLOORS) - {"errors"})


def test_torch_is_unknown_to_the_search():
    """But for the policy's own small network, which no sampler needs."""
    policy = {f"{ROOT}.study.policy.{n}" for n in ("budgeted_softmax", "network", "policy")}
    for library in ("torch", "torchvision"):
        assert users(library)
        assert not users(library) & (inside("errors", "utils", *SEARCH) - policy)
    assert not policy & ours(f"{ROOT}.study.strategies.policy")


@pytest.mark.parametrize(
    ("library", "doors"),
    [
        ("optuna", inside("study")),
        ("yaml", {f"{ROOT}.run.yaml_text"}),
        # the doctor starts Ray in a process of its own
        ("ray", {f"{ROOT}.study.backends.ray"}),
        ("sqlalchemy", {f"{ROOT}.study.storage"}),
        ("peft", {f"{ROOT}.deploy.export.peft"}),
        ("rich", inside("cli")),
        ("typer", inside("cli")),
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
    heavy = {"torch", "optuna", "ray", "torchvision", "sklearn"}
    assert not heavy & set(json.loads(last))


SESSION = """
import json, sys
import autotune.session.session
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_a_search_imports_little_but_torch_and_optuna():
    done = subprocess.run(
        [sys.executable, "-c", SESSION], capture_output=True, text=True, check=True
    )
    heavy = {"scipy", "sklearn", "sqlalchemy", "torchmetrics", "torchvision", "transformers"}
    assert not heavy & set(json.loads(done.stdout))
