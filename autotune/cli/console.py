"""Console on which commands print their results."""

from __future__ import annotations

import shutil

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.segment import Segment

from autotune.utils.harmless import harmless

WIDE = 120
"""Line width, in characters, in a file or pipe, which has none: enough for most tables."""


def console() -> Console:
    """Return a console on standard output, as wide as the terminal."""
    # The width is passed explicitly: rich assumes 80 columns on a dumb terminal.
    columns, lines = shutil.get_terminal_size()
    is_terminal = Console().is_terminal
    width = columns if is_terminal else max(columns, WIDE)
    return harmless_console(Console(highlight=False, width=width, height=lines))


def harmless_console(console: Console) -> Console:
    """The console, on which control characters in texts are written out."""
    console.push_render_hook(_WrittenOut())
    return console


class Harmless:
    """Renderable whose texts, which may come from files, cannot control the terminal."""

    def __init__(self, content: RenderableType) -> None:
        self.content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.content, options):
            is_control = segment.control is not None
            yield segment if is_control else Segment(harmless(segment.text), segment.style)


class _WrittenOut(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Harmless(one) for one in renderables]
