"""Costs add up, and a budget is a cap that is read exactly or refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import BudgetError
from autotune.problem.budget import Budget, Cost, Measure, check_text

BACKBONE = Cost(parameters=700_123, stored=700_200, bytes=2_800_800)

examples = settings(deadline=None, derandomize=True)
counts = st.integers(0, 10**12)
costs = st.builds(Cost, counts, counts, counts)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1%", 7_001),
        ("0.5%", 3_500),
        ("100%", 700_123),
        ("50k", 50_000),
        ("1.5M", 1_500_000),
        ("2000", 2_000),
        (" 0.29 k ", 290),
    ],
)
def test_a_budget_without_bytes_counts_parameters(text, limit):
    budget = Budget.parse(text, BACKBONE)
    assert (budget.limit, budget.measure) == (limit, Measure.PARAMETERS)
    assert (budget.total, budget.text) == (BACKBONE.parameters, text.strip())


@pytest.mark.parametrize(
    ("text", "limit"), [("0.5MB", 500_000), ("300kB", 300_000), ("1 MB", 10**6)]
)
def test_a_budget_in_bytes_has_decimal_units(text, limit):
    budget = Budget.parse(text, BACKBONE)
    assert (budget.limit, budget.measure) == (limit, Measure.BYTES)
    assert budget.total == BACKBONE.bytes


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0", "more than zero"),
        ("0.0%", "more than zero"),
        ("-1%", "must be positive"),
        ("-50k", "must be positive"),
        ("100.5%", "at most 100 %"),
        ("", "a number with an optional unit"),
        ("lots", "a number with an optional unit"),
        ("1%%", "a number with an optional unit"),
        ("1e3", "a number with an optional unit"),
        ("5K", "a number with an optional unit"),
        ("1,000", "a number with an optional unit"),
        ("nan", "a number with an optional unit"),
        ("1% 2%", "a number with an optional unit"),
        ("٣%", "a number with an optional unit"),
    ],
)
def test_what_is_no_budget_is_refused_with_rule_value_and_forms(text, rule):
    for read in (check_text, lambda text: Budget.parse(text, BACKBONE)):
        with pytest.raises(BudgetError) as error:
            read(text)
        assert rule in str(error.value)
        assert f"got {text!r}" in str(error.value)
        assert "Write it as 1%, 0.5%, 50k" in str(error.value)


@pytest.mark.parametrize("text", ["0.001%", "0.4"])
def test_a_budget_below_one_parameter_is_refused(text):
    with pytest.raises(BudgetError, match="at least 1 of the backbone's") as error:
        Budget.parse(text, Cost(parameters=400))
    assert repr(text) in str(error.value)
    assert "400" in str(error.value)


@pytest.mark.parametrize(
    ("text", "share"), [("1", "1%"), (" 1 ", "1%"), ("1.0", "1%"), ("1.5", "1.5%"), ("01", "1%")]
)
def test_a_budget_of_one_parameter_is_refused_with_the_share_that_was_meant(text, share):
    with pytest.raises(BudgetError, match=f"Write {share} for that share") as error:
        check_text(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["2", "1000", "10000.0", "8kB", "0.5%", "1 %", "1k"])
def test_budgets_of_more_than_one_parameter_stay_valid(text):
    assert check_text(text) == text
    assert Budget.parse(text, BACKBONE).limit > 1


def test_a_checked_text_comes_back_as_it_was():
    assert [check_text(text) for text in ("1%", " 50k", "0.5MB")] == ["1%", " 50k", "0.5MB"]


@examples
@given(whole=st.integers(0, 99), part=st.integers(0, 10**40 - 1), total=st.integers(1, 10**12))
def test_a_percentage_is_rounded_down_and_never_above_its_share(whole, part, total):
    text = f"{whole}.{part:040}"
    exact = Fraction(text) * total / 100
    if exact < 1:
        with pytest.raises(BudgetError):
            Budget.parse(f"{text}%", Cost(parameters=total))
        return
    limit = Budget.parse(f"{text}%", Cost(parameters=total)).limit
    assert limit <= exact < limit + 1


def test_a_percentage_with_many_digits_is_not_rounded_up():
    nearly = "0." + "9" * 40
    assert Budget.parse(f"{nearly}%", Cost(parameters=100_000)).limit == 999
    assert Budget.parse(f"1{nearly}%", Cost(parameters=100_000)).limit == 10_999


@examples
@given(st.text(max_size=6))
def test_any_text_is_read_or_refused_with_a_budget_error(text):
    try:
        budget = Budget.parse(text, BACKBONE)
    except BudgetError:
        return
    assert budget.limit >= 1
    assert Budget.parse(budget.text, BACKBONE) == budget


@examples
@given(st.lists(costs, max_size=6))
def test_costs_add_up_in_any_order(parts):
    whole = sum(parts, Cost())
    assert whole == sum(reversed(parts), Cost())
    assert whole.stored == sum(part.stored for part in parts)
    for measure in Measure:
        assert whole[measure] == sum(part[measure] for part in parts)


@examples
@given(cost=costs, limit=st.integers(1, 10**12), measure=st.sampled_from(Measure))
def test_a_cost_fits_up_to_the_limit_in_the_budgets_own_measure(cost, limit, measure):
    budget = Budget(limit, total=10**12, measure=measure)
    counted = cost.parameters if measure is Measure.PARAMETERS else cost.bytes
    assert budget.fits(cost) == (counted <= limit)
