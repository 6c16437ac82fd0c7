"""Means over training runs and episodes: against Student's test, and how often intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, t, ttest_1samp, ttest_ind, ttest_rel

from lfm_policy.evaluation.crossed import crossed_mean

Values = NDArray[np.float64]


def successes(rng: np.random.Generator, runs: int, training: float, difficulty: Values) -> Values:
    """Successes (runs, episodes) of a method: logits vary by training run and by episode."""
    logits = 1.2 + training * rng.normal(size=(runs, 1)) + difficulty
    return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)


def test_one_run_each_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, (1, 40)), rng.normal(0, 1, (1, 40))
    found, known = crossed_mean((1.0, a), (-1.0, b)), ttest_rel(a[0], b[0])
    assert found.p_value == pytest.approx(known.pvalue)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert crossed_mean((1.0, a)).p_value == pytest.approx(ttest_1samp(a[0], 0).pvalue)


def test_runs_that_do_not_depend_on_episodes_are_welchs_test() -> None:
    """Each run a constant of its own: training is all that varies."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, (4, 1)), rng.normal(0, 2, (6, 1))
    found = crossed_mean((1.0, a.repeat(30, 1)), (-1.0, b.repeat(30, 1)))
    known = ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert found.p_value == pytest.approx(known.pvalue)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.episodes_needed() is None, "no number of episodes tells such runs apart"


def test_the_variance_is_right_on_average() -> None:
    """Against the variance that the mean of runs, episodes and noise has by construction."""
    rng, runs, n = np.random.default_rng(2), 4, 12
    found = []
    for _ in range(3000):
        values = 0.8 * rng.normal(size=(runs, 1)) + 0.9 * rng.normal(size=n) + 1.1 * rng.normal(size=(runs, n))
        found.append(crossed_mean((1.0, values)).variance)
    true = 0.8**2 / runs + 0.9**2 / n + 1.1**2 / (runs * n)
    assert np.mean(found) == pytest.approx(true, abs=4 * np.std(found) / math.sqrt(len(found)))


@pytest.mark.parametrize(("runs", "training"), [(2, 1.0), (2, 0.0), (3, 1.0), (3, 0.3), (3, 0.0), (5, 0.3)])
def test_intervals_hold_a_true_difference_of_nothing(runs: int, training: float) -> None:
    rng, trials, held = np.random.default_rng(4), 400, 0
    for _ in range(trials):
        difficulty = 1.5 * rng.normal(size=100)
        a, b = (successes(rng, runs, training, difficulty) for _ in range(2))
        low, high = crossed_mean((1.0, a), (-1.0, b)).interval()
        held += low <= 0 <= high
    assert held / trials >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize(("runs", "training"), [(2, 1.0), (2, 0.3), (3, 1.0)])
def test_small_p_values_are_as_rare_as_they_say(runs: int, training: float) -> None:
    """Where nothing differs; Holm's correction asks for p of half a percent and less."""
    rng, trials, found = np.random.default_rng(8), 2000, 0
    for _ in range(trials):
        difficulty = 1.5 * rng.normal(size=100)
        a, b = (successes(rng, runs, training, difficulty) for _ in range(2))
        found += crossed_mean((1.0, a), (-1.0, b)).p_value < 0.005
    assert found / trials <= 0.005 + 4 * math.sqrt(0.005 * 0.995 / trials)


def test_a_difference_that_is_not_told_apart_needs_more_episodes_than_it_has() -> None:
    rng, seen = np.random.default_rng(9), 0
    for _ in range(400):
        difficulty = 1.5 * rng.normal(size=60)
        a, b = successes(rng, 2, 0.5, difficulty), successes(rng, 3, 0.5, difficulty + rng.normal())
        mean = crossed_mean((1.0, a), (-1.0, b))
        needed = mean.episodes_needed(alpha=0.01)
        if mean.p_value >= 0.01 and needed is not None:
            seen += 1
            assert needed > 60
    assert seen > 30


@pytest.mark.parametrize(("runs", "training", "least"), [(2, 1.0, 0.88), (3, 1.0, 0.92), (3, 0.3, 0.95)])
def test_intervals_of_one_mean_hold_it_as_often_as_is_told(runs: int, training: float, least: float) -> None:
    """Few runs that happen to agree hide how training varies: less than 95 %, as the docstring says."""
    rng, trials, held = np.random.default_rng(5), 400, 0
    difficulty = 1.5 * rng.normal(size=(trials, 100))
    logits = norm.ppf((np.arange(100_000) + 0.5) / 100_000, loc=1.2, scale=math.hypot(training, 1.5))
    truth = float((1 / (1 + np.exp(-logits))).mean())
    for trial in range(trials):
        low, high = crossed_mean((1.0, successes(rng, runs, training, difficulty[trial]))).interval()
        held += low <= truth <= high
    assert held / trials >= least - 4 * math.sqrt(least * (1 - least) / trials)


def test_degrees_of_freedom_are_those_of_the_runs_at_least() -> None:
    """Else two runs that happen to agree would tell less than two that do not."""
    rng = np.random.default_rng(7)
    for runs in (2, 3):
        for _ in range(200):
            a, b = (successes(rng, runs, 0.2, rng.normal(size=20)) for _ in range(2))
            assert crossed_mean((1.0, a), (-1.0, b)).degrees >= runs - 1


def test_more_episodes_reach_the_promised_power() -> None:
    """Runs without variance of their own: the number is that of a test on episode means."""
    rng = np.random.default_rng(6)
    values = rng.normal(0.2, 1, (1, 50))
    found = crossed_mean((1.0, values))
    needed = found.episodes_needed()
    assert needed is not None
    error = math.sqrt(values.var(ddof=1) / needed)
    assert abs(found.value) / error == pytest.approx(t.ppf(0.975, 49) + t.ppf(0.8, 49), rel=0.02)


def test_where_nothing_varies_signs_are_counted() -> None:
    a, b = np.ones((3, 8)), np.zeros((3, 8))
    assert crossed_mean((1.0, a), (-1.0, b)).p_value == pytest.approx(2 * 0.5**8)
    same = crossed_mean((1.0, a), (-1.0, a))
    assert (same.value, same.p_value, same.interval()) == (0, 1, (0, 0))
    assert same.episodes_needed() is None
