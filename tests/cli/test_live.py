"""The live view on a real pseudo-terminal: whole lines, whatever its width; nothing left behind."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.run.notebook import Study

from .conftest import SCRIPT

pytest.importorskip("pyte", reason="pyte is not installed")
from .terminal import Terminal

pytestmark = pytest.mark.processes

SMALL = ("--strategy", "random", "--trials", 3, "--epochs", 4, "--no-references", "--bnstats", "on")
OTHER_SCREEN, OWN_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR_OFF, CURSOR_ON = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened = []

    def open_one(*arguments: object, columns: int) -> Terminal:
        opened.append(Terminal(SCRIPT, *map(str, arguments), columns=columns))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def shows_trials(rows: list[str]) -> bool:
    return any(re.match(r"trials +\d+ of 3", row) for row in rows)


def assert_whole(rows: list[str], columns: int) -> None:
    """The lines of the view, each once, in their order, none broken."""
    first = [row.split(" ")[0] for row in rows if row]
    assert first[0] == "autotune" and len(rows[0]) <= columns
    for name in ("autotune", "now", "trials", "best", "plan"):
        assert first.count(name) <= 1, "\n".join(rows)
    assert rows[1].startswith("preparation › trials › finalists")
    assert re.search(r"\d+\xa0% · .* s", rows[2]), rows[2]


def test_a_search_and_who_watches_it_see_whole_lines_and_then_the_result(terminal, tmp_path):
    """On 80 columns in its own process, on 200 and 90 in others."""
    folder = tmp_path / "run"
    screen = terminal("search", *SMALL, "--out", folder, columns=80)
    screen.until(lambda rows: any(row.startswith("plan") for row in rows))
    screen.pause()
    other, brief = (terminal("status", folder, "--watch", columns=n) for n in (200, 90))
    for view in (other, brief):
        view.until(shows_trials)
    brief.interrupt()
    assert brief.ended() == 0, "a watch ends with Ctrl-C, and the search continues"
    assert_whole(screen.rows, 80)
    assert_whole(other.rows, 200)
    screen.go_on()
    assert screen.ended() == 0 and other.ended() == 0
    assert Study(folder).state == "complete"
    for view in (screen, other):
        assert not any(row.startswith(("now ", "trials ")) for row in view.rows)
        assert view.raw.count(OTHER_SCREEN) == view.raw.count(OWN_SCREEN) == 1
    assert "autotune report" in "".join(screen.rows) and "complete" in "".join(other.rows)


def test_a_resize_leaves_no_torn_lines_and_ctrl_c_a_clean_terminal(terminal, tmp_path):
    slow = (*SMALL, "--epochs", 60)
    view = terminal("search", *slow, "--out", tmp_path / "run", columns=120)
    view.until(shows_trials)
    for columns in (60, 150):
        view.resize(columns)
        before = len(view.raw)
        view.until(lambda rows, n=before: len(view.raw) > n + 2000)
        assert_whole(view.rows, columns)
    view.interrupt()
    assert view.ended() == 130
    shown = " ".join(view.rows)
    assert "Interrupted." in shown and "autotune resume" in shown and "Traceback" not in shown
    assert not any(row.startswith(("now ", "trials ")) for row in view.rows)
    assert view.raw.rindex(OWN_SCREEN) > view.raw.rindex(OTHER_SCREEN)
    assert view.raw.rindex(CURSOR_ON) > view.raw.rindex(CURSOR_OFF)


def test_without_a_terminal_there_are_plain_lines(call, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    code, _, err = call("search", *SMALL, "--out", tmp_path / "run", "--epochs", 1)
    assert code == 0 and "\x1b" not in err
    lines = err.splitlines()
    assert "Trials" in lines and any(line.startswith("trial 0: complete") for line in lines)
    assert not any("1/1" in line for line in lines)


def test_quiet_shows_the_result_alone_and_a_log_of_json_has_every_event(call, tmp_path):
    log = tmp_path / "events.jsonl"
    code, out, err = call(
        "search", *SMALL, "--epochs", 1, "--out", tmp_path / "run", "--quiet", "--log-json", log
    )
    assert code == 0 and err == "" and "autotune report" in out
    kinds = re.findall(r'"kind": "([\w-]+)"', log.read_text())
    assert kinds.count("end") == 3 and kinds[-1] == "answer"
    assert os.path.getsize(log) > 1000 and Path(tmp_path / "run" / "log.jsonl").is_file()


def test_a_closed_terminal_ends_a_search_in_order(tmp_path):
    """Nothing can be printed there anymore."""
    command = (sys.executable, "-m", "autotune", "search", *map(str, SMALL), "--epochs", "60")
    view = Terminal(*command, "--out", tmp_path / "run", columns=80)
    view.until(shows_trials)
    os.close(view.at)
    _, status = os.waitpid(view.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert not (tmp_path / "run" / "lease.json").exists()
    assert Study(tmp_path / "run").state == "interrupted"
