"""Ctrl-C, SIGTERM and SIGHUP: raised at once, or at the next check where Python would lose them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

import autotune
from autotune.errors import Interrupted
from autotune.utils import interrupts
from autotune.utils.interrupts import interruptible


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """As in the foreground; tests in the background ignore Ctrl-C, and under nohup SIGHUP."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def send_and_go_on(number: int, seen: list[int]) -> None:
    with interruptible():
        send(number)
        seen.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_at_once(number):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        send_and_go_on(number, seen)
    assert not seen
    interrupts.check()


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send_and_go_on(signal.SIGHUP, seen := [])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIGHUP]


class Ends:
    """Ctrl-C arrives while it is destroyed."""

    def __del__(self) -> None:
        send()


class Key:
    pass


def destroyed() -> None:
    Ends()


def forgotten() -> None:
    """Its destructor runs inside a weak dictionary's own callback."""
    known, key = weakref.WeakKeyDictionary(), Key()
    known[key] = Ends()
    del key


def swallowed() -> None:
    with suppress(BaseException):
        send()


@pytest.mark.parametrize("lost", [destroyed, forgotten, swallowed])
def test_what_is_lost_is_raised_by_the_next_check(lost):
    with interruptible():
        lost()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.check()


def test_handlers_are_given_back_and_the_caller_s_own_stays():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(), interruptible():
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    seen = []
    handler = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with interruptible():
            send()
            interrupts.check()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, handler)


def test_another_thread_does_without():
    ended = []

    def run() -> None:
        with interruptible():
            interrupts.check()
            ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended


def command(*lines: str) -> tuple[int, str]:
    """Exit code and standard error of a process that is a command with these lines."""
    code = "\n".join(
        [
            "import os, signal, sys, time",
            "from autotune.utils import interrupts",
            "send = lambda number=signal.SIGINT: os.kill(os.getpid(), number)",
            "signal.signal(signal.SIGINT, signal.default_int_handler)",
            "from autotune.utils.interrupts import insistent, interruptible, resumable",
            "with insistent(), interruptible(), resumable('Go on.'):",
            *(f"    {line}" for line in lines),
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


CLEANUP = "try: send()\n    except KeyboardInterrupt: pass"
"""Ctrl-C came, and what follows is done in order."""


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_command_at_once_and_says_how_to_continue(again):
    code, errors = command(CLEANUP, "time.sleep(0.1)", f"send({int(again)})", "print('late')")
    assert (code, errors) == (130, "Interrupted again, so it ends at once. Go on.\n")


def test_what_must_happen_before_the_end_happens():
    act = "with interrupts.ending_with(lambda: os.write(2, b'restored ')): send()"
    code, errors = command(CLEANUP, "time.sleep(0.1)", act)
    assert code == 130 and errors.startswith("restored Interrupted again")


def test_signals_that_come_together_are_one_and_a_closed_terminal_may_say_so_twice():
    """As `timeout` sends them, to a process and to its group."""
    closed = f"send({int(signal.SIGHUP)})"
    assert command(CLEANUP, "send()", "time.sleep(0.1)", closed, "os._exit(7)") == (7, "")


IMPORTING = """
import importlib.abc, os, signal, sys
class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "autotune.cli.app":
            {}
sys.meta_path.insert(0, Interrupted())
signal.signal(signal.SIGINT, signal.default_int_handler)
from autotune.__main__ import main
main()
"""


@pytest.mark.parametrize("effect", ["", "raise RecursionError('broken by it')"])
def test_ctrl_c_while_modules_are_imported_shows_no_traceback(effect):
    """An import may lose it, and then break."""
    send = "os.kill(os.getpid(), signal.SIGINT)"
    lines = f"try: {send}\n            except BaseException: {effect}" if effect else send
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING.format(lines)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize("strategy", ["random", "policy"])
def test_a_search_in_which_it_was_lost_stops_within_a_batch(
    tiny_network, tiny_task, tmp_path, strategy
):
    """It comes inside a destructor, at a time when a callback is told of an epoch or a round."""
    seen = []

    def lose(event: autotune.Event) -> None:
        seen.append(event.kind)
        if event.kind == ("progress-of-trial" if strategy == "random" else "round"):
            destroyed()

    with pytest.raises(Interrupted, match="autotune resume"):
        autotune.search(
            tiny_network,
            tiny_task,
            budget="100%",
            strategy=strategy,
            bnstats="on",
            references=False,
            epochs=50,
            out=str(tmp_path / "run"),
            callbacks=[lose],
        )
    assert seen.count("progress-of-trial") <= 1
