"""Checks names and docstrings: sentences that begin like fragments, variables that name nothing.

`python .ci/english.py [FOLDER ...]` lists what it finds and exits with 1 where there is anything.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("autotune", "benchmarks", "examples", "tests", ".ci")

FRAGMENT = re.compile(r"(Of|In which|How)\b")
"""A docstring that begins so has neither subject nor verb."""

EMPTY_NAMES = {"found", "told", "given", "said", "own", "mine", "theirs"}
"""Variables that say how a value came, not what it holds."""


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings, those of attributes and constants included."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value


def bindings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every variable, argument and attribute of `self` that is bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def faults(path: Path) -> Iterator[str]:
    """One line for each docstring and name to be changed."""
    tree, place = ast.parse(path.read_text()), path.relative_to(ROOT)
    for line, text in docstrings(tree):
        if FRAGMENT.match(text.strip()):
            yield f"{place}:{line}: docstring begins with {text.strip()[:40]!r}"
    for line, name in bindings(tree):
        if name in EMPTY_NAMES:
            yield f"{place}:{line}: variable {name!r} does not say what it holds"


def main(folders: list[str]) -> int:
    files = [f for folder in folders or FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))]
    lines = [line for file in files for line in faults(file)]
    print(*lines, sep="\n") if lines else print(f"{len(files)} files, nothing to change.")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
