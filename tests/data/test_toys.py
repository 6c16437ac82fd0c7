"""What every 2-D density must keep: mass one, the entropy it states, samples that follow it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from lfm_policy.data import toys
from lfm_policy.data.toys import DENSITIES, Density
from lfm_policy.flow.errors import LFMError

SMOOTH = [name for name in DENSITIES if name != "checkerboard"]


@pytest.fixture(scope="module", params=list(DENSITIES))
def density(request: pytest.FixtureRequest) -> Density:
    return DENSITIES[request.param]()


def midpoints(limit: float, n: int) -> tuple[np.ndarray, float]:
    """Midpoints (n * n, 2) of squares on [-limit, limit]^2, x running fastest, and one square's area."""
    edge = limit * (2 * (np.arange(n) + 0.5) / n - 1)
    x, y = np.meshgrid(edge, edge)
    return np.stack([x.ravel(), y.ravel()], axis=1), (2 * limit / n) ** 2


def mass_and_entropy(density: Density, limit: float, n: int) -> tuple[float, float]:
    points, area = midpoints(limit, n)
    log_prob = density.log_prob(points)
    mass = np.exp(log_prob) * area
    return float(mass.sum()), float(-(mass * np.where(mass > 0, log_prob, 0)).sum())


@pytest.mark.parametrize("name", SMOOTH)
def test_mass_is_one_and_the_entropy_is_the_quadrature_s(name: str) -> None:
    density = DENSITIES[name]()
    mass, entropy = mass_and_entropy(density, limit=6, n=150)
    # the pinwheel leaves out what is beyond its folds
    tolerance = 2e-5 if name == "pinwheel" else 2e-7
    assert mass == pytest.approx(1, abs=tolerance)
    assert entropy == pytest.approx(density.entropy, abs=tolerance)


def test_the_checkerboard_is_exact() -> None:
    mass, entropy = mass_and_entropy(DENSITIES["checkerboard"](), limit=6, n=24)
    assert mass == pytest.approx(1, abs=1e-12)
    assert entropy == pytest.approx(math.log(32), abs=1e-12)


def test_the_pinwheel_s_entropy_in_its_own_coordinates() -> None:
    """Of an arm's radius and offset the trapezoid rule is exact to rounding; no fold comes near."""
    z = np.linspace(-7, 7, 150)
    first, second = (grid.ravel() for grid in np.meshgrid(z, z))
    weight = np.exp(-0.5 * (first**2 + second**2)) / (2 * math.pi) * (z[1] - z[0]) ** 2
    points = toys.pinwheel_turn(1 + 0.3 * first, 0.1 * second, np.full(first.shape, 3))
    density = DENSITIES["pinwheel"]()
    assert -(weight * density.log_prob(points)).sum() == pytest.approx(density.entropy, abs=2e-7)


def test_entropy_is_what_samples_say(density: Density) -> None:
    surprise = -density.log_prob(density.sample(20_000, np.random.default_rng(1)))
    error = surprise.std() / math.sqrt(len(surprise))
    assert abs(surprise.mean() - density.entropy) <= 4 * error + 1e-12


def test_samples_follow_the_density(density: Density) -> None:
    """Chi-square over squares of side 1/2, whose probabilities come from 36 points each."""
    points, area = midpoints(6, 24 * 6)
    mass = (np.exp(density.log_prob(points)) * area).reshape(24, 6, 24, 6).sum(axis=(1, 3))
    samples = density.sample(40_000, np.random.default_rng(2))
    seen, _, _ = np.histogram2d(samples[:, 1], samples[:, 0], bins=24, range=[[-6, 6], [-6, 6]])
    expected = mass * len(samples)
    full = expected > 8
    statistic = ((seen - expected) ** 2 / np.where(full, expected, 1))[full].sum()
    freedom = full.sum() - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)
    assert abs(seen[~full].sum() - expected[~full].sum()) < 5 * math.sqrt(expected[~full].sum() + 1)


def test_a_generator_s_state_decides_the_sample(density: Density) -> None:
    first, again = (density.sample(50, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (50, 2)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, density.sample(50, np.random.default_rng(4)))


@pytest.mark.parametrize("name", SMOOTH)
def test_far_off_the_likelihood_is_small_and_finite(name: str) -> None:
    log_prob = DENSITIES[name]().log_prob(np.array([[3.0, 3], [30, 30], [300, -300], [3000, 0]]))
    assert np.isfinite(log_prob).all()
    assert (np.diff(log_prob) < 0).all()


def test_off_the_board_there_is_nothing() -> None:
    log_prob = DENSITIES["checkerboard"]().log_prob(np.array([[1, 1], [-1, 1], [5, 5], [0, -9]]))
    np.testing.assert_array_equal(log_prob, [-math.log(32), -np.inf, -np.inf, -np.inf])


def test_the_spirals_logarithms_agree_with_the_plain_sum() -> None:
    density = DENSITIES["two_spirals"]()
    q, weights = toys._legendre(0, 3 * math.pi, 512)
    middles = np.stack([-q * np.cos(q), q * np.sin(q)], axis=1) / 3 + 1 / 12
    both, weights = np.concatenate([middles, -middles]), np.tile(weights * q / (9 * math.pi**2), 2)
    points, _ = midpoints(5, 20)
    np.testing.assert_allclose(toys._smeared_far(points, both, weights), density.log_prob(points), rtol=1e-9)


@pytest.mark.parametrize("name", ["two_moons", "swiss_roll", "two_spirals"])
def test_curves_are_integrated_finely_enough(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other nodes give the same likelihoods, in the tails too."""
    points, _ = midpoints(6, 30)
    plain = DENSITIES[name]().log_prob(points)
    legendre = toys._legendre
    if name == "two_moons":
        centres, weights = legendre(0, math.pi, 500)
        curve = np.stack([np.cos(centres), np.sin(centres)], axis=1)
        moons = np.concatenate([2 * curve, 2 * np.array([1, 0.5]) - 2 * curve]) - np.array([1, 0.2])
        finer = toys._isotropic(moons, np.tile(weights, 2) / (2 * math.pi), 0.2)(points)
    else:
        # three pieces of as many nodes each
        def pieces(low: float, high: float, n: int) -> tuple[np.ndarray, np.ndarray]:
            edges = np.linspace(low, high, 4)
            parts = [legendre(a, b, n) for a, b in pairwise(edges)]
            nodes, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            return nodes, weights

        monkeypatch.setattr(toys, "_legendre", pieces)
        finer = DENSITIES[name]().log_prob(points)
    np.testing.assert_allclose(plain, finer, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("points", [np.zeros(2), np.zeros((4, 3)), np.full((1, 2), np.nan)])
def test_points_of_another_kind(density: Density, points: np.ndarray) -> None:
    with pytest.raises(LFMError, match="points of the plane"):
        density.log_prob(points)


def test_no_points(density: Density) -> None:
    assert density.log_prob(np.empty((0, 2))).shape == (0,)
