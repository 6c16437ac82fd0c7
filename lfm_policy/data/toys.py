"""Two-dimensional densities with exact samples and exact likelihoods.

The definitions are FFJORD's (Grathwohl et al. 2019, `lib/toy_data.py`); the densities and entropies are our own. The
curves (two_moons, swiss_roll, two_spirals) are integrated over their parameter by Gauss-Legendre quadrature, which is
exact to rounding at these numbers of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
CHUNK = 4096  # points at once: the matrix of points and nodes stays near 20 MB


@dataclass(frozen=True)
class Density:
    """A density on the plane that can be drawn from, evaluated, and whose entropy is known.

    `sample(n, rng)` is (n, 2) float64, `log_prob` maps (B, 2) to (B,) nats, -inf where there is no mass; `entropy` is
    in nats, and `about` says in one line what it is.
    """

    sample: Callable[[int, np.random.Generator], Array]
    log_prob: Callable[[Array], Array]
    entropy: float
    about: str


def as_points(x: Array) -> Array:
    """`x` as (B, 2) float64; LFMError if it has another shape or is not finite."""
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise LFMError(f"points of the plane: shape {points.shape} must be (B, 2)")
    if not np.isfinite(points).all():
        raise LFMError(f"points of the plane: row {np.argwhere(~np.isfinite(points))[0, 0]} is not finite; drop it")
    return points


def in_chunks(log_prob: Callable[[Array], Array], x: Array, size: int = CHUNK) -> Array:
    """`log_prob` of (B, 2) points, `size` of them at a time."""
    points = as_points(x)
    parts = [log_prob(points[start : start + size]) for start in range(0, len(points), size)]
    return np.concatenate(parts) if parts else np.empty(0)


def gaussian_mixture(x: Array, centres: Array, log_weights: Array) -> Array:
    """log sum_k w_k exp(-|x - m_k|^2 / 2) of (B, 2) points and (K, 2) centres, to rounding however far x is."""
    exponent = x @ centres.T + (log_weights - 0.5 * (centres**2).sum(axis=1))
    largest = exponent.max(axis=1)
    total = np.exp(exponent - largest[:, None]).sum(axis=1)
    return largest + np.log(total) - 0.5 * (x**2).sum(axis=1)


def _isotropic(centres: Array, weights: Array, sigma: float) -> Callable[[Array], Array]:
    """log_prob of sum_k w_k N(m_k, sigma^2 I)."""
    log_weights, norm = np.log(weights), math.log(2 * math.pi * sigma**2)
    return lambda x: in_chunks(lambda part: gaussian_mixture(part / sigma, centres / sigma, log_weights) - norm, x)


def _legendre(low: float, high: float, n_nodes: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature on [low, high]; the weights add up to high - low."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def checkerboard() -> Density:
    """Uniform on the 8 squares of side 2 in [-4, 4]^2 whose corners' halves add up to an even number."""

    def sample(n: int, rng: np.random.Generator) -> Array:
        column = rng.integers(-2, 2, n)
        row = 2 * rng.integers(-1, 1, n) + column % 2
        return 2 * (np.stack([column, row], axis=1) + rng.random((n, 2)))

    def log_prob(x: Array) -> Array:
        square = np.floor(as_points(x) / 2)
        inside = (np.abs(square + 0.5) < 2).all(axis=1) & (square.sum(axis=1) % 2 == 0)
        return np.where(inside, -math.log(32), -np.inf)

    return Density(sample, log_prob, math.log(32), "uniform on 8 squares of side 2; entropy ln 32")


def eight_gaussians() -> Density:
    """Eight equal Gaussians on a circle of radius 4/1.414, each of standard deviation 0.5/1.414."""
    angles = np.arange(8) * math.pi / 4
    centres, sigma = 4 / 1.414 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.5 / 1.414

    def sample(n: int, rng: np.random.Generator) -> Array:
        return centres[rng.integers(8, size=n)] + sigma * rng.standard_normal((n, 2))

    about = "8 Gaussians on a circle; entropy by quadrature to 1e-7"
    return Density(sample, _isotropic(centres, np.full(8, 1 / 8), sigma), EIGHT_GAUSSIANS, about)


def two_moons() -> Density:
    """Two half circles of radius 2, interleaved, with noise of standard deviation 0.2."""

    def curve(t: Array, second: Array) -> Array:
        first, other = np.stack([np.cos(t), np.sin(t)], axis=-1), np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=-1)
        return 2 * np.where(second[:, None], other, first) - np.array([1, 0.2])

    def sample(n: int, rng: np.random.Generator) -> Array:
        return curve(math.pi * rng.random(n), rng.random(n) < 0.5) + 0.2 * rng.standard_normal((n, 2))

    t, weights = _legendre(0, math.pi, 256)
    centres = np.concatenate([curve(t, np.full(256, second)) for second in (False, True)])
    weights = np.tile(weights, 2) / (2 * math.pi)
    about = "two half circles, noise 0.2; entropy by quadrature to 1e-7"
    return Density(sample, _isotropic(centres, weights, 0.2), TWO_MOONS, about)


def swiss_roll() -> Density:
    """The spiral (t cos t, t sin t) / 5 with t uniform on [1.5 pi, 4.5 pi] and noise of standard deviation 0.2."""

    def curve(t: Array) -> Array:
        return np.stack([t * np.cos(t), t * np.sin(t)], axis=-1) / 5

    def sample(n: int, rng: np.random.Generator) -> Array:
        return curve(1.5 * math.pi * (1 + 2 * rng.random(n))) + 0.2 * rng.standard_normal((n, 2))

    t, weights = _legendre(1.5 * math.pi, 4.5 * math.pi, 384)
    log_prob = _isotropic(curve(t), weights / (3 * math.pi), 0.2)
    return Density(sample, log_prob, SWISS_ROLL, "one spiral, noise 0.2; entropy by quadrature to 1e-7")


def two_spirals() -> Density:
    """Two spirals of 1.5 turns, smeared by squares of side 1/6 and by noise of standard deviation 0.1.

    x = s ((-q cos q, q sin q) + v / 2) / 3 + 0.1 z with q = 3 pi sqrt(u), v uniform on the unit square, s = 1 or -1.
    """

    def curve(q: Array) -> Array:
        return np.stack([-q * np.cos(q), q * np.sin(q)], axis=-1) / 3

    def sample(n: int, rng: np.random.Generator) -> Array:
        smeared = curve(3 * math.pi * np.sqrt(rng.random(n))) + rng.random((n, 2)) / 6
        return np.where(rng.random((n, 1)) < 0.5, -1, 1) * smeared + 0.1 * rng.standard_normal((n, 2))

    q, weights = _legendre(0, 3 * math.pi, 512)
    middles = curve(q) + 1 / 12
    weights = weights * q / (9 * math.pi**2)  # half of dq's share 2 q / (3 pi)^2: there are two spirals
    middles, weights = np.concatenate([middles, -middles]), np.tile(weights, 2)
    about = "two spirals of 1.5 turns, noise 0.1; entropy by quadrature to 1e-7"
    return Density(
        sample, lambda x: in_chunks(lambda part: _smeared(part, middles, weights), x, 256), TWO_SPIRALS, about
    )


def _smeared(x: Array, middles: Array, weights: Array) -> Array:
    """log density of squares of side 1/6 at `middles`, mixed by `weights` and smeared by N(0, 0.1^2)."""
    distances = [np.abs(x[:, axis, None] - middles[:, axis]) for axis in (0, 1)]
    # of a square 10 standard deviations away 8e-24 is left
    close = (distances[0] < 1 / 12 + 1) & (distances[1] < 1 / 12 + 1)
    point, node = np.divmod(np.flatnonzero(close), len(middles))
    share = weights[node]
    for distance in distances:
        # by the distance from the middle both arguments stay below 1, where a difference of ndtr loses nothing
        near = distance[close]
        share *= 6 * (ndtr((1 / 12 - near) / 0.1) - ndtr((-1 / 12 - near) / 0.1))
    density = np.bincount(point, share, minlength=len(x))
    far = density < 1e-14
    result = np.log(np.where(far, 1, density))
    result[far] = _smeared_far(x[far], middles, weights)
    return result


def _smeared_far(x: Array, middles: Array, weights: Array) -> Array:
    """The same in logarithms, ten times slower, for points where the density itself is too small a number."""
    exponent = np.broadcast_to(np.log(weights), (len(x), len(weights))).copy()
    for axis in (0, 1):
        distance = np.abs(x[:, axis, None] - middles[:, axis])
        high, low = log_ndtr((1 / 12 - distance) / 0.1), log_ndtr((-1 / 12 - distance) / 0.1)
        exponent += math.log(6) + high + np.log1p(-np.exp(low - high))
    largest = exponent.max(axis=1, initial=-np.inf)
    return largest + np.log(np.exp(exponent - largest[:, None]).sum(axis=1))


def pinwheel() -> Density:
    """Five bent arms: 2 (r, t) turned by -(2 pi k / 5 + 0.25 e^r), r ~ N(1, 0.3^2), t ~ N(0, 0.1^2).

    The likelihood inverts the turn, whose determinant is 1 + 0.25 e^r t, and takes that solution of each arm from
    which the determinant stays positive down to t = 0. Those left out are far off the arms and hold 2e-8 of the mass.
    """

    def sample(n: int, rng: np.random.Generator) -> Array:
        r, t = 1 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
        return pinwheel_turn(r, t, rng.integers(5, size=n))

    about = "five bent arms; entropy by quadrature to 1e-7"
    return Density(sample, lambda x: in_chunks(_pinwheel_log_prob, x), PINWHEEL, about)


def pinwheel_turn(r: Array, t: Array, arm: Array) -> Array:
    """Points (n, 2) of the pinwheel from radius, offset and arm, (n,) each."""
    angle = 2 * math.pi / 5 * arm + 0.25 * np.exp(r)
    return 2 * np.stack([r * np.cos(angle) + t * np.sin(angle), t * np.cos(angle) - r * np.sin(angle)], axis=-1)


def _pinwheel_log_prob(x: Array) -> Array:
    radius = np.hypot(x[:, 0], x[:, 1])[:, None] / 2
    bent = np.minimum(radius, 30)  # beyond, the arms have wound more often than doubles can tell

    def turned(angle: Array) -> Array:
        """The angle at which (r, t) = radius (cos angle, sin angle) ends on the arm 0; rises on [fold, pi]."""
        return angle - 0.25 * np.exp(bent * np.cos(angle))

    fold = _pinwheel_fold(bent)
    target = np.arctan2(x[:, 1], x[:, 0])[:, None] + 2 * math.pi / 5 * np.arange(5)
    least = np.maximum(turned(fold), turned(np.zeros_like(bent)) - math.pi)
    target = least + (target - least) % (2 * math.pi)
    angle = _bisect(lambda angle: turned(angle) - target, fold, np.full_like(target, math.pi))
    r, t = radius * np.cos(angle), radius * np.sin(angle)
    determinant = np.abs(1 + 0.25 * np.exp(np.minimum(r, 30)) * t)
    exponent = -0.5 * ((r - 1) / 0.3) ** 2 - 0.5 * (t / 0.1) ** 2 - np.log(np.maximum(determinant, 1e-300))
    largest = exponent.max(axis=1)
    total = np.log(np.exp(exponent - largest[:, None]).sum(axis=1))
    return largest + total - math.log(5 * 4 * 2 * math.pi * 0.3 * 0.1)


def _pinwheel_fold(radius: Array) -> Array:
    """The angle below 0 from which the turned angle rises up to pi: where the determinant is 0, or -pi."""

    def fall(angle: Array) -> Array:
        return 1 + 0.25 * radius * np.exp(radius * np.cos(angle)) * np.sin(angle)

    cosine = 2 * radius / (1 + np.sqrt(1 + 4 * radius**2))  # where it falls most steeply
    steepest = -np.arccos(cosine)
    return np.where(fall(steepest) < 0, _bisect(fall, steepest, np.zeros_like(radius)), -math.pi)


def _bisect(rising: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The root of a rising function between arrays of bounds, to rounding."""
    for _ in range(55):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high


# Entropies in nats. A test computes each anew.
EIGHT_GAUSSIANS = 2.8318804
TWO_MOONS = 2.3938792
SWISS_ROLL = 2.6696462
TWO_SPIRALS = 2.6454503
PINWHEEL = 2.3177880

DENSITIES: dict[str, Callable[[], Density]] = {
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "two_moons": two_moons,
    "swiss_roll": swiss_roll,
    "two_spirals": two_spirals,
    "pinwheel": pinwheel,
}
