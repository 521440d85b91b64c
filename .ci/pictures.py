"""Draws docs/live.svg and docs/report.png from a run: `python .ci/pictures.py runs/digits`."""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright
from rich.console import Console

from autotune.cli.live_layout import view
from autotune.run.notebook import Study
from autotune.run.progress import Standing, read_events

FONTS = re.compile(r"@font-face \{.*?\}\s*", re.S)
"""Rich names fonts of the internet; the reader's own will do."""

DOCS = Path(__file__).parent.parent / "docs"


def draw_live(run: Path) -> None:
    """The view as it was in the middle of the last trial."""
    standing, now = Standing(), 0.0
    for event, _ in read_events(run / "log.jsonl"):
        if event.kind == "end" and standing.ended == standing.total - 1:
            break
        standing.see(event)
        now = event.time
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(view(standing, now))
    drawn = console.export_svg(title="autotune search --budget 1%")
    (DOCS / "live.svg").write_text(FONTS.sub("", drawn))


def draw_report(run: Path) -> None:
    """The top of the page."""
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "report.html"
        page_file.write_text(Study(run).report())
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 1180})
        page.goto(page_file.as_uri())
        page.screenshot(path=DOCS / "report.png")


if __name__ == "__main__":
    draw_live(Path(sys.argv[1]))
    draw_report(Path(sys.argv[1]))
