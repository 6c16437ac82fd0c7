"""Intervals against their closed form, summaries against hand counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from lfm_policy.evaluation.statistics import mean_interval, percentiles_ms, summarise, wilson, wilson_rate


def closed_form(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson (1927): the roots in p of (k/n - p)² = z² p (1 - p) / n."""
    z = norm.ppf(0.5 + confidence / 2)
    rate = k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (47, 50), (90, 100), (3, 700)])
def test_wilson_equals_its_closed_form(k: int, n: int, confidence: float) -> None:
    assert wilson(k, n, confidence) == pytest.approx(closed_form(k, n, confidence), abs=1e-12)
    assert wilson_rate(k / n, n, confidence) == pytest.approx(closed_form(k, n, confidence), abs=1e-12)


def test_wilson_is_symmetric_and_narrows() -> None:
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_fewer_effective_episodes_widen_the_interval() -> None:
    low, high = wilson_rate(0.8, 40.5)
    assert wilson(32, 40)[0] < low < wilson(80, 100)[0] < wilson(80, 100)[1] < high < wilson(32, 40)[1]


def test_the_interval_of_a_mean_is_the_normal_one_for_many_values_and_stays_in_bounds() -> None:
    values = np.random.default_rng(1).normal(2.0, 0.5, 2000).tolist()
    half = norm.ppf(0.975) * np.std(values) / math.sqrt(len(values))
    expected = np.mean(values) - half, np.mean(values) + half
    assert mean_interval(values) == pytest.approx(expected, abs=0.1 * half)
    assert mean_interval(values) == mean_interval(values)
    low, high = mean_interval([1.0] * 49 + [0.2])
    assert 0.9 < low < 0.984 < high <= 1.0
    assert mean_interval([0.7]) == (0.7, 0.7)


def row(success: bool, steps: int, total: float, env_seconds: float) -> dict[str, Any]:
    values = {"success": success, "steps": steps, "return": total, "max_reward": min(total, 1.0)}
    return values | {"env_seconds": env_seconds}


def test_summary_counts_what_the_rows_say() -> None:
    rows = [row(True, 10, 1.0, 0.5), row(False, 30, 0.0, 1.5), row(True, 20, 3.0, 1.0)]
    summary = summarise(rows, [0.001, 0.002, 0.003])
    assert summary["success_rate"] == pytest.approx(2 / 3)
    assert (summary["n_success"], summary["n_rollouts"]) == (2, 3)
    assert summary["wilson95"] == list(wilson(2, 3))
    assert (summary["mean_steps"], summary["mean_return"]) == (20, pytest.approx(4 / 3))
    assert summary["mean_max_reward"] == pytest.approx(2 / 3)
    assert summary["max_reward95"] == list(mean_interval([1.0, 0.0, 1.0]))
    assert summary["env_steps_per_second"] == 20
    assert summary["latency_ms"]["p50"] == 2.0


def test_percentiles_are_milliseconds_and_none_without_chunks() -> None:
    assert percentiles_ms([i / 1000 for i in range(101)]) == {"p50": 50.0, "p95": 95.0}
    assert percentiles_ms([]) == {"p50": None, "p95": None}
