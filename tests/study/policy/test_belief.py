"""Gaussian belief over scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import multivariate_normal as normal

from autotune.problem.problem import entries_of
from autotune.study.policy.belief import Belief, Observation, as_rows, covariance

from .problems import problem_of, problems


@pytest.fixture
def belief():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(4, 4))
    return Belief(generator.normal(size=4), root @ root.T + np.eye(4))


@pytest.fixture
def seen():
    rows = np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
    return Observation(rows, np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.5, 1.0]))


def test_after_is_the_conditional_mean_of_a_joint_gaussian(belief, seen):
    """The expected mean is computed from blocks of the joint covariance of scores and sums."""
    both = np.vstack([np.eye(4), seen.rows])
    joint = both @ belief.covariance @ both.T
    joint[4:, 4:] += np.diag(seen.noise**2)
    off = seen.values - seen.rows @ belief.mean
    expected = belief.mean + joint[:4, 4:] @ np.linalg.inv(joint[4:, 4:]) @ off
    assert np.allclose(belief.after(seen), expected)


def test_draws_have_the_mean_and_covariance_of_what_is_left(belief, seen):
    generator = np.random.default_rng(1)
    draws = np.array([belief.drawn(seen, generator) for _ in range(20_000)])
    inside = seen.rows @ belief.covariance @ seen.rows.T + np.diag(seen.noise**2)
    gain = belief.covariance @ seen.rows.T @ np.linalg.inv(inside)
    left = belief.covariance - gain @ seen.rows @ belief.covariance
    assert np.allclose(draws.mean(0), belief.after(seen), atol=0.05)
    assert np.allclose(np.cov(draws.T), left, atol=0.1)


def test_before_anything_is_seen_it_is_the_prior(belief):
    nothing = Observation(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert belief.after(nothing) is belief.mean


def test_evidence_is_the_density_of_what_was_seen(belief, seen):
    """Equality holds up to a constant, for each unit of the values."""
    scales = np.array([0.5, 1.0, 3.0])
    mean = seen.rows @ belief.mean
    inside = seen.rows @ belief.covariance @ seen.rows.T + np.diag(seen.noise**2)
    expected = np.array([normal(s * mean, s**2 * inside).logpdf(seen.values) for s in scales])
    evidence = belief.evidence(seen, scales)
    assert np.allclose(evidence - evidence[0], expected - expected[0])


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_the_covariance_of_any_problem_is_positive_definite(problem):
    prior = covariance(problem, entries_of(problem))
    assert np.allclose(prior, prior.T)
    assert not len(prior) or np.linalg.eigvalsh(prior).min() > 0


def test_the_more_choices_share_the_more_their_scores_go_together():
    problem = problem_of([[1, 1, 1, 1, 1, 1]] * 4, 100)
    entries = entries_of(problem)
    prior = covariance(problem, entries)
    at = {(unit, choice.label): i for i, (unit, choice) in enumerate(entries)}

    def shared(first, second):
        return prior[at[first], at[second]]

    rank = ("unit0", "lowrank-1")
    assert shared(rank, ("unit0", "lowrank-2")) > shared(rank, ("unit0", "scale")) > 0
    assert shared(rank, ("unit0", "lowrank-2")) > shared(rank, ("unit0", "lowrank-4"))
    assert shared(rank, ("unit1", "lowrank-1")) > shared(rank, ("unit3", "lowrank-1")) > 0
    assert shared(rank, ("unit3", "scale")) == 0
    both = ("unit0", "subtune-norms+lowrank-1")
    assert shared(both, ("unit1", "lowrank-1")) > 0 < shared(both, ("unit1", "subtune-norms"))


def test_rows_count_the_terms_of_each_sum():
    entries = [("a", "x"), ("b", "x")]
    assert as_rows(entries, [[("b", "x")], [], [("a", "x"), ("b", "x")]]).tolist() == [
        [0, 1],
        [0, 0],
        [1, 1],
    ]
