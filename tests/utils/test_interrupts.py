"""Ctrl-C, SIGTERM and SIGHUP: raised at once, or at the next check where Python would lose them."""

from __future__ import annotations

import os
import signal
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
