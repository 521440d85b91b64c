"""Drivers and workers that are killed at random moments lose nothing, on backends with workers."""

from __future__ import annotations

import random

import pytest

from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder

from .kill_loop import kill_loop, search

KILLS, TRIALS = 2, 5


def seen(path) -> list:
    records = Records(RunFolder(path), None).trials
    return [(r.number, r.state_name, str(r.plan), r.value, r.curve) for r in records]


@pytest.mark.parametrize(
    ("backend", "workers"),
    [
        pytest.param("processes", 1, marks=pytest.mark.processes),
        pytest.param("ray", 2, marks=pytest.mark.ray),
    ],
)
def test_killed_at_random_moments_nothing_is_lost_or_done_twice(tmp_path, backend, workers):
    seed = random.SystemRandom().randrange(10**6)
    output = kill_loop(
        tmp_path / "killed", backend, workers=workers, trials=TRIALS, kills=KILLS, seed=seed
    )
    assert not output.faults, f"seed {seed}, killed {output.kills}"
    assert output.kills
    if workers == 1:
        search(RunFolder(tmp_path / "whole"), "inline", 1, TRIALS)
        assert seen(tmp_path / "killed") == seen(tmp_path / "whole")
