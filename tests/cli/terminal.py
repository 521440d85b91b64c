"""A command under a pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import copy
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

ALTERNATE = 1049
"""The mode of a terminal's other screen."""


class Screen(pyte.Screen):
    """With the other screen, which pyte lacks: what was there before comes back."""

    def set_mode(self, *modes: int, **kind: bool) -> None:
        if ALTERNATE in modes and kind.get("private"):
            self.kept = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.erase_in_display(2)
        super().set_mode(*modes, **kind)

    def reset_mode(self, *modes: int, **kind: bool) -> None:
        super().reset_mode(*modes, **kind)
        if ALTERNATE in modes and kind.get("private"):
            self.buffer, self.cursor = self.kept
            self.dirty.update(range(self.lines))


class Terminal:
    """Runs a command on a terminal of its own; `rows` is what a person sees."""

    def __init__(self, *command: str | Path, columns: int, lines: int = 24) -> None:
        self.screen = Screen(columns, lines)
        self.stream, self.raw = pyte.ByteStream(self.screen), b""
        self.pid, self.at = pty.fork()
        if self.pid == 0:
            for ignored in (signal.SIGINT, signal.SIGHUP):  # by tests in the background
                signal.signal(ignored, signal.SIG_DFL)
            environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
            environment |= {"TERM": "xterm-256color"}
            os.execve(str(command[0]), [*map(str, command)], environment)
        self._tell_size()

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.screen.display]

    def resize(self, columns: int, lines: int = 24) -> None:
        """As a person does with the mouse: the program is told."""
        self.screen.resize(lines, columns)
        self._tell_size()

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self.at, b"\x03")

    def pause(self) -> None:
        """The program stands still, so that nothing depends on how quick it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def until(self, seen: Callable[[list[str]], bool], *, seconds: float = 240.0) -> None:
        """Read on until the screen shows something."""
        end = time.monotonic() + seconds
        while not seen(self.rows):
            assert time.monotonic() < end, "\n".join(self.rows)
            assert self._read(), "it ended:\n" + "\n".join(self.rows)

    def ended(self) -> int:
        """Read to the end; its exit code."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Nothing is left behind, whatever happened."""
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.at)

    def _tell_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self.at, termios.TIOCSWINSZ, size)

    def _read(self) -> bool:
        """What came within a moment; False when it has ended."""
        if not select.select([self.at], [], [], 0.2)[0]:
            return True
        try:
            chunk = os.read(self.at, 65536)
        except OSError:
            return False
        self.raw += chunk
        self.stream.feed(chunk)
        return bool(chunk)
