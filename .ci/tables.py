"""Writes the tables of methods in the documents, the one that `autotune list methods` prints."""

from __future__ import annotations

import re
from pathlib import Path

from autotune.cli.listings import METHOD_COLUMNS, method_cells, methods_to_json
from autotune.utils.registry import OURS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "methods.md")
BEGIN, END = "<!-- methods: python .ci/tables.py -->", "<!-- /methods -->"
_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def with_tables(text: str) -> str:
    """A page's text with what stands between the two markers as it should be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{_methods()}\n{END}{after}"


def _methods() -> str:
    builtin = [row for row in methods_to_json() if row["package"] == OURS]
    cells = [method_cells({**row, "name": f"`{row['name']}`"}) for row in builtin]
    linked = [[_PAPER.sub(r"[\1](https://arxiv.org/abs/\1)", c) for c in line] for line in cells]
    head = [list(METHOD_COLUMNS.values()), ["---"] * len(METHOD_COLUMNS)]
    return "\n".join(f"| {' | '.join(line)} |" for line in head + linked)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
