"""What documents say of the package is what the package says of itself."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "tables.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="a source distribution has no .ci folder")
@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_the_table_of_methods_is_the_one_that_would_be_written(page):
    text = (ROOT / page).read_text()
    tables = runpy.run_path(str(SCRIPT))
    assert tables["with_tables"](text) == text, "write it anew: python .ci/tables.py"
    begin = tables["BEGIN"] + "\n"
    assert tables["with_tables"](text.replace(begin, begin + "| old |\n")) == text
