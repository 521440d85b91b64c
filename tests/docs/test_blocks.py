"""Every block of the README and of the documentation is run, checked, or says why it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.backbones.inputs import read_input
from autotune.problem.search_space import read_space
from autotune.run.settings import read_settings

ROOT = Path(__file__).parent.parent.parent
CI = ROOT / ".ci"
PAGES = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
LANGUAGES = ("bash", "python", "yaml", "json", "text", "console")

if not CI.is_dir():
    pytest.skip("a source distribution has no .ci folder", allow_module_level=True)
sys.path.insert(0, str(CI))
from blocks import Block, blocks_of  # noqa: E402


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


ELSEWHERE = ("README.md", ".github/CONTRIBUTING.md", "docs/tutorial.md")
"""Run by `.ci/readme.py`, as it installs the package first; not at all; by `test_tutorial.py`."""

RUN = [
    page
    for page in PAGES
    if name_of(page) not in ELSEWHERE and any(block.is_command() for block in blocks_of(page))
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language_and_a_reason_where_it_is_not_run(page: Path) -> None:
    blocks = blocks_of(page)
    assert page.read_text().count("```") == 2 * len(blocks)
    for block in blocks:
        assert block.language in LANGUAGES, f"{page}:{block.line}"
        if block.language == "console" or block.why:
            assert len((block.why or "").split()) > 2, f"{page}:{block.line} says no reason"
            print(f"{name_of(page)}:{block.line} is not run: {block.why}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_data_in_a_block_is_what_autotune_reads(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            check_yaml(yaml.safe_load(block.text), f"{page}:{block.line}")


def check_yaml(data: dict[str, Any], where: str) -> None:
    """As a search space, an input description, or a configuration."""
    if "family" in data:
        read_space(data, source=where)
    elif "size" in data or "shape" in data:
        read_input(data, source=where)
    else:
        read_settings(data)


@pytest.mark.pages
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_blocks_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    done = run_page(page, tmp_path, Path(sys.executable))
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def run_page(page: Path, folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    """As a reader does: in one folder, with the environment's commands on the path."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(python), str(CI / "blocks.py"), str(page)],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_page_is_cut_into_what_is_run_written_and_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```bash\necho one\n```\n- item\n\n  ```python title="a/b.py"\n  x = 1\n  ```\n'
        "<!-- not run: needs a card -->\n```console\nautotune search\n```\n```text\nx\n```\n"
    )
    bash, file, console, text = blocks_of(page)
    assert bash == Block("bash", "echo one\n", 2)
    assert (file.title, file.text, file.is_command()) == ("a/b.py", "x = 1\n", False)
    assert (console.why, text.why) == ("needs a card", None)
    assert run_page(page, tmp_path, Path(sys.executable)).returncode == 0
    assert (tmp_path / "a/b.py").read_text() == "x = 1\n"
