"""A block that takes too long is ended, and an alarm of the caller's still comes."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from autotune.utils.time_limit import OutOfTime, time_limit


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except Exception:  # as code that swallows everything
            continue


def test_a_block_that_is_quick_enough_is_left_alone():
    with time_limit(30):
        spin(0.02)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_block_that_takes_too_long_is_ended_whatever_it_catches():
    with pytest.raises(OutOfTime), time_limit(0.05):
        spin(30)


def test_an_alarm_of_the_caller_comes_afterwards():
    alarms = []
    former = signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with time_limit(30):
            spin(0.02)
        assert not alarms
        spin(0.3)
        assert alarms
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_in_another_thread_there_is_no_limit():
    ended = []

    def run() -> None:
        with time_limit(0.01):
            spin(0.05)
        ended.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended
