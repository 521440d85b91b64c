"""The blocks of a page, found here alone, and run in their order as a reader would.

    python .ci/blocks.py PAGE

runs a page in the folder where it is called: bash by bash, Python in one namespace; a block with a
`title` is a file that is written under that name. `text` is output, `console` what cannot run
here; what is not run says why in a comment before it: <!-- not run: why -->.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(
    r"""(?:^[ ]*<!--\ not\ run:\ (?P<why>[^>]+?)\ -->\n\n?)?
        ^(?P<indent>[ ]*)```(?P<language>\w*)(?:[ ]title="(?P<title>[^"]+)")?[ ]*\n
        (?P<text>.*?)
        ^(?P=indent)```[ ]*$""",
    re.M | re.S | re.X,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Number of its first line in the page, from 1."""

    title: str | None = None
    """The file that a reader saves it as."""

    why: str | None = None
    """The reason why it is not run, where it has one."""

    def is_command(self) -> bool:
        """Whether it is run when its turn comes."""
        return self.language in ("bash", "python") and not self.why and not self.title


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page in their order."""
    content = page.read_text()
    return [_block(match, content) for match in _BLOCK.finditer(content)]


def _block(match: re.Match[str], content: str) -> Block:
    indent = len(match["indent"])
    lines = [line[indent:] for line in match["text"].splitlines(keepends=True)]
    first = content.count("\n", 0, match.start("text")) + 1
    return Block(match["language"], "".join(lines), first, match["title"], match["why"])


def run_block(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run it, or write the file that it is."""
    where = f"{page.name}:{block.line}"
    print(f"--- {where}, {block.title or block.language}:\n{block.text}", flush=True)
    if block.title:
        file = Path(block.title)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    elif block.language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True)
    else:
        padded = "\n" * (block.line - 1) + block.text
        exec(compile(padded, str(page), "exec"), names)


def main(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.is_command() or (block.title and not block.why):
            run_block(block, page, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
