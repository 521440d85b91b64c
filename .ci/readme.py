"""Runs the README's blocks as they stand: `tests` the test command, `others` all the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.M | re.S)


def blocks(kind: str) -> list[tuple[str, str]]:
    """(language, text) of the test command, or of every other block, in the README's order."""
    found = [(language, text) for language, text in _BLOCK.findall(README.read_text())]
    assert found, "the README has blocks"
    return [block for block in found if ("pytest" in block[1]) == (kind == "tests")]


def main(kind: str) -> None:
    for language, text in blocks(kind):
        print(f"--- README, {language}:\n{text}", flush=True)
        if language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, cwd=README.parent)
        else:
            subprocess.run([sys.executable, "-c", text], check=True, cwd=README.parent)


if __name__ == "__main__":
    main(sys.argv[1])
