"""Seconds count once, for the innermost stage that is open."""

from __future__ import annotations

import threading
import time

import pytest

from autotune.utils import timings
from autotune.utils.timings import STAGES, counted, reset, spent, timed


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""

    class Clock:
        now = 0.0

        def wait(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    reset()
    yield clock
    monkeypatch.undo()
    reset()


def test_what_is_inside_another_counts_for_itself_alone(clock):
    clock.wait(100)
    with spent("training"):
        clock.wait(1)
        with spent("data"):
            clock.wait(2)
            with spent("prefix"):
                clock.wait(4)
        clock.wait(8)
    clock.wait(100)
    assert counted() == {"training": 9, "data": 2, "prefix": 4}


def test_an_error_closes_what_was_open(clock):
    @spent("training")
    def fail() -> None:
        with spent("data"):
            clock.wait(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with spent("storage"):
        clock.wait(2)
    assert counted() == {"data": 1, "storage": 2}


def test_an_iterator_counts_while_it_gives_and_not_in_between(clock):
    def given():
        for value in range(3):
            clock.wait(1)
            yield value

    for _ in timed("data", given()):
        with spent("training"):
            clock.wait(10)
    assert counted() == {"data": 3, "training": 30}


def test_other_threads_count_nothing(clock):
    def work() -> None:
        with spent("storage"):
            clock.wait(5)

    with spent("training"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert counted() == {"training": 5}


def test_a_function_can_be_a_stage(clock):
    @spent("evaluation")
    def evaluate() -> int:
        clock.wait(3)
        return 7

    assert evaluate() + evaluate() == 14
    assert counted() == {"evaluation": 6}


def test_a_new_beginning_forgets(clock):
    with spent("data"):
        clock.wait(1)
    reset()
    assert counted() == {}
    assert set(timings._ledger.seconds) == set(STAGES)
