"""Runs the README's blocks as they stand: `tests` the test command, `others` all the rest."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blocks import Block, blocks_of, run_block

README = Path(__file__).parent.parent / "README.md"


def commands(kind: str) -> list[Block]:
    """The test command, or every other block that runs, in the README's order."""
    runnable = [block for block in blocks_of(README) if block.is_command()]
    assert runnable, "the README has blocks"
    return [block for block in runnable if ("pytest" in block.text) == (kind == "tests")]


def main(kind: str) -> None:
    os.chdir(README.parent)
    for block in commands(kind):
        run_block(block, README, {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1])
