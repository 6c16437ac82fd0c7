"""Means over training runs and episodes at once, where every run is rolled out on the same episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


@dataclass(frozen=True)
class CrossedMean:
    """A mean, or a difference of two, over training runs and `n_episodes` episodes.

    episode_variance, training_variance: what either contributes to the variance of `value`. degrees: of freedom.
    """

    value: float
    episode_variance: float
    training_variance: float
    degrees: float
    n_episodes: int

    @property
    def variance(self) -> float:
        """Variance of `value`."""
        return self.episode_variance + self.training_variance

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval."""
        half = float(t.ppf(0.5 + confidence / 2, self.degrees)) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float:
        """Two-sided p of a true value of 0; where nothing varies, that of as many equal signs (sign test)."""
        if not self.value:
            return 1.0
        if not self.variance:
            return 0.5 ** (self.n_episodes - 1)
        return float(2 * t.sf(abs(self.value) / math.sqrt(self.variance), self.degrees))

    def episodes_needed(self, power: float = 0.8, alpha: float = 0.05) -> int | None:
        """Episodes with which the same training runs would tell `value` from 0; None where no number would.

        Degrees of freedom count as they are, so that a mean whose p is above `alpha` needs more than it has.
        """
        if not self.value:
            return None
        spread = self.value / float(t.ppf(1 - alpha / 2, self.degrees) + t.ppf(power, self.degrees))
        room = spread**2 - self.training_variance
        return math.ceil(self.n_episodes * self.episode_variance / room) if room > 0 else None


def crossed_mean(*terms: tuple[float, NDArray[np.float64]]) -> CrossedMean:
    """Sum of weight times mean over `terms` (weight, values (runs, episodes)); episodes are the same in all.

    Variances are added as for two-way clusters (Cameron, Gelbach and Miller 2011): of episode means, plus of run
    means, less what both contain; degrees of freedom are Satterthwaite's, those of a difference no more than its runs
    have: few runs that happen to agree would pass for certain, and p below 0.005 came up to four times too often. A
    single run tells nothing of its training's variance, which then counts as 0. Resampling runs and episodes instead
    (percentile bootstrap) held the truth in 77 % of simulations with two runs each, and in 89 % with three, where
    training varied much; of differences this does in 95 % at least, of one method's mean in 88 to 98 % with two runs
    and in 92 to 98 % with three, less the more training varies.
    """
    per_episode = sum(weight * values.mean(0) for weight, values in terms)
    n = len(per_episode)
    episode = float(per_episode.var(ddof=1)) / n if n > 1 else 0.0
    runs = [weight**2 * _run_variance(values) for weight, values in terms]
    shared = sum(weight**2 * _residual_variance(values) for weight, values in terms)
    training = max(sum(runs) - shared, 0.0)
    uncertain = episode**2 / max(n - 1, 1)
    uncertain += sum(run**2 / (len(values) - 1) for run, (_, values) in zip(runs, terms, strict=True) if run)
    # no fewer than of the least known variance, which a difference of variances may seem to have
    least = min([len(values) - 1 for _, values in terms if len(values) > 1], default=max(n - 1, 1))
    degrees = max((episode + training) ** 2 / uncertain if uncertain else 0.0, least)
    of_runs = sum(len(values) - 1 for _, values in terms)
    if of_runs and len(terms) > 1:
        degrees = min(degrees, of_runs)
    # sums of equal rates in another order shall differ by nothing
    return CrossedMean(round(float(per_episode.mean()), 12) + 0.0, episode, training, degrees, n)


def _run_variance(values: NDArray[np.float64]) -> float:
    """Variance of the mean over runs, by how much runs differ."""
    return float(values.mean(1).var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _residual_variance(values: NDArray[np.float64]) -> float:
    """Variance of the mean that neither run nor episode explains: in both of the others, so once too often."""
    runs, n = values.shape
    if runs < 2 or n < 2:
        return 0.0
    residual = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    return float((residual**2).sum()) / ((runs - 1) * (n - 1)) / (runs * n)
