"""What a study records besides its trials is read back as it was, also from older versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import RunError
from autotune.problem.budget import Cost
from autotune.problem.plan import Choice, Plan
from autotune.study.paired import Difference
from autotune.study.stages import (
    VERSION,
    Against,
    Baseline,
    Compared,
    Final,
    PolicyStage,
    Preparation,
    Repeat,
    Spread,
    versioned,
)

PLAN = Plan({"stem": Choice.of("lowrank", rank=2)})
RATES = {"lr:head": 0.01, "weight_decay": 0.0}
TRAINED: dict[str, Any] = {
    "plan": PLAN,
    "hyperparameters": RATES,
    "value": 0.5,
    "test": {"accuracy": 0.25, "n": 8},
    "metrics": {"accuracy": 0.5},
    "folds": (0.4, 0.6),
    "cost": Cost(8, 8, 32),
    "seconds": 1.5,
}
RECORDS = [
    Preparation("on", "better linear probe on validation", {"on": 0.6, "off": 0.5}),
    Repeat(0.5, {"accuracy": 0.5}, (0.4, 0.6), 2.0),
    Baseline(**TRAINED, curve=(0.1, 0.5), fits=False),
    Compared(**TRAINED, trainings=3),
    PolicyStage(
        scores={("stem", "lowrank-2"): 0.5},
        earned={("stem", "lowrank-2"): [0.5, 0.25]},
        has_earned=True,
        plan=PLAN,
        proxies_plan=Plan(),
        rounds=4,
        stable=True,
        probabilities=({("stem", "lowrank-2"): 1.0},),
        agreement=None,
        moved=0.25,
        unreached=("stem scale",),
        left_out=(),
        rates={"lr:head": 0.03},
        seconds=3.0,
    ),
    Final(
        plan=PLAN,
        number=3,
        value=0.5,
        cost=Cost(8, 8, 32),
        test={"accuracy": 0.25, "n": 8},
        metrics={"accuracy": 0.5},
        hyperparameters=RATES,
        baseline="uniform",
        values=Spread({0: 0.5, 1: 0.75}),
        tests=Spread({0: 0.25, 1: 0.5}),
        against=(Against("probe", Cost(), Difference(0.1, float("inf"), 1)),),
    ),
    Final(Plan(), None, 0.5, Cost(), {"accuracy": 0.25}, {}, RATES),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record):
    stored = json.loads(json.dumps(versioned(record.to_json())))
    assert type(record).from_json(stored) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_without_a_version_is_of_the_first_one(record):
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_of_a_later_version_is_refused(record):
    with pytest.raises(RunError, match=f"records of version {VERSION}, the study has version 9"):
        type(record).from_json({**record.to_json(), "version": 9})


def test_repeats_without_seconds_are_read():
    """Earlier versions recorded the repeats of a profile without them."""
    assert Repeat.from_json({"value": 0.5, "metrics": {}}).seconds == 0.0


@given(st.dictionaries(st.integers(0, 99), st.floats(0, 1), min_size=1))
def test_a_spread_has_mean_and_deviation_of_its_seeds(by_seed):
    spread = Spread(by_seed)
    assert min(by_seed.values()) - 1e-12 <= spread.mean <= max(by_seed.values()) + 1e-12
    assert (spread.std == 0.0) == (len({*by_seed.values()}) == 1) or spread.std < 1e-9
    assert Spread.from_json(json.loads(json.dumps(spread.to_json()))) == spread
