"""Two policies on the same episodes: how far apart they are, whether that may be chance, and how to find out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, permutation_test

from lfm_policy.evaluation.statistics import wilson

RESAMPLES = 9999  # of a permutation test: p is at least 2 / 10000


@dataclass(frozen=True)
class PairedCounts:
    """Episodes in which both succeed, the first alone, the second alone, neither."""

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> PairedCounts:
        """Counts of two lists of successes, one entry an episode in the same order."""
        cells = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
        return cls(*(cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def n(self) -> int:
        """Episodes."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """Success rate of the first less that of the second."""
        return (self.first - self.second) / self.n


def newcombe(counts: PairedCounts, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the paired difference of success rates: Newcombe's square-and-add of Wilson's intervals.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635), with its continuity-corrected correlation.
    """
    a, b, c, d, n = counts.both, counts.first, counts.second, counts.neither, counts.n
    p1, p2 = (a + b) / n, (a + c) / n
    (low1, high1), (low2, high2) = wilson(a + b, n, confidence), wilson(a + c, n, confidence)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    covariance: float = a * d - b * c
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    phi = covariance / math.sqrt(margins) if margins else 0.0

    def add(left: float, right: float) -> float:
        return math.sqrt(max(left**2 - 2 * phi * left * right + right**2, 0))

    return counts.difference - add(p1 - low1, high2 - p2), counts.difference + add(high1 - p1, p2 - low2)


def mcnemar(counts: PairedCounts) -> float:
    """Exact two-sided p of equal success rates (McNemar 1947): discordant episodes as tosses of a fair coin."""
    discordant = counts.first + counts.second
    return float(binomtest(counts.first, discordant).pvalue) if discordant else 1.0


def episodes_needed(counts: PairedCounts, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Paired episodes that tell two policies apart if they differ as much as observed; None where they do not.

    Sample size of McNemar's two-sided test for given discordance (Miettinen 1968; Connor 1987, Biometrics 43, 207).
    """
    discordance, difference = (counts.first + counts.second) / counts.n, abs(counts.difference)
    if not difference:
        return None
    z_alpha, z_power = norm.ppf(1 - alpha / 2), norm.ppf(power)
    root = z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - difference**2)
    return math.ceil((root / difference) ** 2)


def sign_flips(differences: Sequence[float]) -> float:
    """Two-sided p that paired differences (n,) have mean 0, by flipping their signs (Fisher 1935).

    All 2^n flips where that is fewer than the 9999 that are drawn otherwise, with a fixed seed.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.any() or len(values) == 1:  # a mean of 0, or one that a flip leaves as large
        return 1.0
    found = permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for how many there are (Holm 1979): all true hypotheses stand with 1 - α."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
