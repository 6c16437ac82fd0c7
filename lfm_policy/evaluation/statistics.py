"""What a list of episodes says: rates with their interval, means, and latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, norm


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927).

    Unlike mean ± 2 standard errors it stays inside [0, 1] and keeps a width at 0 and at n successes.
    """
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_rate(rate: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a rate whose precision is that of `n` independent episodes, n any positive number.

    With n = rate (1 - rate) / variance it holds for rates of clustered episodes (Korn and Graubard 1998).
    """
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean by the percentile bootstrap, with draws of its own fixed seed.

    Scores pile up at their bound: mean ± 2 standard errors would reach beyond it.
    """
    if len(set(values)) == 1:
        return float(values[0]), float(values[0])
    draws = np.random.default_rng(0)
    found = bootstrap((values,), np.mean, confidence_level=confidence, method="percentile", random_state=draws)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """Median and 95th percentile in milliseconds; None without a measurement."""
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(seconds), [50, 95]) * 1e3
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def summarise(rows: Sequence[Mapping[str, Any]], latencies: Sequence[float]) -> dict[str, Any]:
    """Success rate with its 95 % interval, means over episodes, speed, and latency per chunk.

    `latencies` are seconds, one a chunk. `env_steps_per_second` is one environment's, policy not counted.
    """
    successes, n = sum(bool(row["success"]) for row in rows), len(rows)
    env_seconds = sum(row["env_seconds"] for row in rows)
    return {
        "success_rate": successes / n,
        "n_success": successes,
        "n_rollouts": n,
        "wilson95": list(wilson(successes, n)),
        "mean_return": _mean(rows, "return"),
        "mean_max_reward": _mean(rows, "max_reward"),
        "max_reward95": list(mean_interval([row["max_reward"] for row in rows])),
        "mean_steps": _mean(rows, "steps"),
        "env_steps_per_second": round(sum(row["steps"] for row in rows) / max(env_seconds, 1e-9), 1),
        "latency_ms": percentiles_ms(latencies),
    }


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
