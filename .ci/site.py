"""Hooks of mkdocs: pages that are generated, and links that leave the folder docs/.

What such links name in benchmarks/ and examples/ is copied into the site, under the same path; so
a page's links are right in a clone and in the site, wherever either is published.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
COPIED = ("benchmarks/RESULTS.md", "examples/*.py", "examples/*.yaml")
LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
DRAWN = re.compile(r'<img [^>]*src="[^"]*flow\.svg"[^>]*>')


def on_files(files: Files, config: Any) -> Files:
    """Add what is generated and what is copied."""
    sys.path.insert(0, str(ROOT / ".ci"))
    from command_line import command_line

    files.append(File.generated(config, "reference/command_line.md", content=command_line()))
    for pattern in COPIED:
        for file in sorted(ROOT.glob(pattern)):
            at = file.relative_to(ROOT).as_posix()
            files.append(File.generated(config, at, content=file.read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Links out of docs/ go to the copies."""
    at = page.file.src_uri
    home = dirname(f"docs/{at}" if (ROOT / "docs" / at).is_file() else at)

    def in_site(match: re.Match[str]) -> str:
        target = normpath(f"{home}/{match['path']}").removeprefix("docs/")
        return relpath(target, dirname(at) or ".") + (match["anchor"] or "")

    return LINK.sub(in_site, markdown)


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """The picture of the flow becomes part of its page, so that it has the page's colours."""
    return DRAWN.sub(lambda _: (ROOT / "docs" / "flow.svg").read_text(), html)
