"""Paired statistics against published examples and brute-force enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from lfm_policy.evaluation.paired import PairedCounts, episodes_needed, holm, mcnemar, newcombe, sign_flips
from lfm_policy.evaluation.statistics import wilson


@pytest.mark.parametrize(
    ("cells", "interval", "digits"),
    [
        # Altman et al. 2000, Statistics with Confidence, table 6.2
        ((14, 5, 0, 22), (0.011, 0.226), 3),
        # Fagerland, Lydersen and Laake 2017, Statistical Analysis of Contingency Tables, chapter 8 (Cavo et al. 2012)
        ((59, 6, 16, 80), (-0.1186, -0.0046), 4),
    ],
)
def test_newcombe_gives_published_intervals(
    cells: tuple[int, int, int, int], interval: tuple[float, float], digits: int
) -> None:
    assert newcombe(PairedCounts(*cells)) == pytest.approx(interval, abs=0.5 * 10.0**-digits)


def test_counts_are_of_episodes_in_their_order() -> None:
    first, second = [True, True, True, False, False, False], [True, True, False, True, False, False]
    counts = PairedCounts.of(first, second)
    assert counts == PairedCounts(both=2, first=1, second=1, neither=2)
    assert counts.n == 6
    assert PairedCounts(5, 3, 1, 1).difference == pytest.approx(0.8 - 0.6)
    with pytest.raises(ValueError, match="zip"):
        PairedCounts.of([True], [True, False])


def test_newcombe_is_antisymmetric_and_holds_the_difference() -> None:
    for counts in tables(9):
        low, high = newcombe(counts)
        swapped = PairedCounts(counts.both, counts.second, counts.first, counts.neither)
        assert newcombe(swapped) == pytest.approx((-high, -low))
        assert -1 - 1e-9 <= low <= counts.difference <= high <= 1 + 1e-9


def tables(n: int) -> Iterator[PairedCounts]:
    """Every outcome of n paired episodes."""
    for a, b, c in itertools.product(range(n + 1), repeat=3):
        if a + b + c <= n:
            yield PairedCounts(a, b, c, n - a - b - c)


@pytest.mark.parametrize("p", [(0.7, 0.15, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1), (0.5, 0.05, 0.05, 0.4)])
def test_newcombe_covers_the_true_difference(p: tuple[float, float, float, float]) -> None:
    """Exactly, by summing the probabilities of all outcomes of 16 episodes; rare discordance makes it conservative."""
    covered = 0.0
    for counts in tables(16):
        cells = (counts.both, counts.first, counts.second, counts.neither)
        low, high = newcombe(counts)
        if low <= p[1] - p[2] <= high:
            ways = math.factorial(16) / math.prod(map(math.factorial, cells))
            covered += ways * math.prod(share**count for share, count in zip(p, cells, strict=True))
    assert 0.94 <= covered <= 0.995


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 6), (2, 7), (5, 5), (9, 3)])
def test_mcnemar_is_the_share_of_fair_coins_as_extreme(first: int, second: int) -> None:
    tosses = itertools.product((0, 1), repeat=first + second)
    extreme = [abs(2 * sum(toss) - first - second) >= abs(first - second) for toss in tosses]
    assert mcnemar(PairedCounts(3, first, second, 4)) == pytest.approx(np.mean(extreme))


def test_without_discordant_episodes_nothing_is_told() -> None:
    counts = PairedCounts(10, 0, 0, 5)
    assert mcnemar(counts) == 1
    assert episodes_needed(counts) is None
    assert episodes_needed(PairedCounts(4, 3, 3, 0)) is None


@pytest.mark.parametrize("counts", [PairedCounts(60, 20, 10, 10), PairedCounts(80, 12, 5, 3)])
def test_the_episodes_needed_give_the_power_they_are_for(counts: PairedCounts) -> None:
    """By simulating McNemar's test; within four binomial standard errors of 80 %, and one point of approximation."""
    n, trials = episodes_needed(counts), 4000
    assert n is not None
    p = np.array([counts.first, counts.second, counts.both + counts.neither]) / counts.n
    first, second, _ = np.random.default_rng(3).multinomial(n, p, trials).T
    rejected = (first - second) ** 2 > 1.959964**2 * (first + second)
    assert np.mean(rejected) == pytest.approx(0.8, abs=0.01 + 4 * math.sqrt(0.8 * 0.2 / trials))


def test_more_power_or_more_pairs_need_more_episodes() -> None:
    counts = PairedCounts(60, 20, 10, 10)
    needed = [
        episodes_needed(counts, power=power, alpha=alpha) for power, alpha in ((0.5, 0.05), (0.8, 0.05), (0.8, 0.01))
    ]
    assert needed == sorted(needed, key=lambda n: n or 0)
    assert len(set(needed)) == 3


def test_flipped_signs_are_enumerated() -> None:
    whole = np.array([0.3, -0.1, 0.25, 0.4, 0.0, 0.15, -0.05, 0.2])
    for n in (1, 2, len(whole)):
        values = whole[:n]
        flips = np.array(list(itertools.product((-1, 1), repeat=n)))
        means = (flips * values).mean(1)
        assert sign_flips(values.tolist()) == pytest.approx(np.mean(np.abs(means) >= abs(values.mean()) - 1e-12))
    assert sign_flips([0.0] * 5) == 1


def test_drawn_flips_come_near_the_enumeration_and_repeat() -> None:
    values = np.random.default_rng(0).normal(0.12, 0.5, 60).tolist()
    p = sign_flips(values)
    draws = np.random.default_rng(1).choice((-1.0, 1.0), (20_000, 60)) @ np.array(values)
    assert p == pytest.approx(np.mean(np.abs(draws) >= abs(sum(values))), abs=4 * math.sqrt(0.25 / 9999))
    assert p == sign_flips(values)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.5], [0.2, 0.2, 0.001, 0.9], [0.6, 0.7, 0.8]])
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis falls where every set of hypotheses that holds it falls by Bonferroni (Marcus et al. 1976)."""
    indices = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    closed = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in indices]
    assert holm(p_values) == pytest.approx(closed)
    assert holm([]) == []


def test_one_pair_of_equal_margins_has_wilsons_width() -> None:
    """Uncorrelated margins add in squares (Newcombe's method without its correlation)."""
    counts = PairedCounts(25, 25, 25, 25)
    low, high = wilson(50, 100)
    assert newcombe(counts) == pytest.approx((-math.hypot(0.5 - low, high - 0.5), math.hypot(high - 0.5, 0.5 - low)))
