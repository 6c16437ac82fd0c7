"""χ² from the noise: closed forms against quadrature, the formulas as written down, each other, and their decay."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lfm_policy.flow import LFMError, ou_moments
from lfm_policy.flow.chi_square import (
    chi_square_bound,
    chi_square_from_moments,
    gaussian_chi_square,
    gaussian_renyi,
    mixture_chi_square,
    mixture_renyi,
    ou_marginal,
)
from tests.flow.analytic import GAUSSIAN, MIXTURE, TWO, Mixture

TIMES = (0.0, 0.05, 0.2, 0.7, 1.5, 3.0)


def chi_square(law: Mixture, time: float = 0.0) -> float:
    return mixture_chi_square(law.weights, law.means, law.covariances, time)


def mapped(law: Mixture, matrix: Tensor) -> Mixture:
    """The law of matrix (x - E x)."""
    return Mixture(law.weights, (law.means - law.mean) @ matrix.T, matrix @ law.covariances @ matrix.T)


def whitened(law: Mixture) -> Mixture:
    values, basis = torch.linalg.eigh(law.covariance)
    return mapped(law, basis @ torch.diag(values.rsqrt()) @ basis.T)


def random_law(seed: int, d: int = 3, components: int = 3, broadest: float = 1.9) -> Mixture:
    """Components with eigenvalues in [0.1, broadest]."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(components, d, d, generator=g, dtype=torch.float64)).Q
    values = 0.1 + (broadest - 0.1) * torch.rand(components, d, generator=g, dtype=torch.float64)
    means = 0.7 * torch.randn(components, d, generator=g, dtype=torch.float64)
    weights = torch.rand(components, generator=g, dtype=torch.float64)
    return Mixture(weights / weights.sum(), means, basis @ (values[..., None] * basis.mT))


def standardised(law: Mixture) -> Mixture:
    """Mean 0 and variances 1, correlations left as they are."""
    return mapped(law, torch.diag(law.covariance.diagonal().rsqrt()))


LAWS = {
    "gaussian": GAUSSIAN,
    "centred gaussian": Mixture.gaussian([0.0, 0.0], [[1.2, 0.5], [0.5, 0.6]]),
    "mixture": MIXTURE,
    "two": TWO,
    "standardised": standardised(TWO),
    "whitened": whitened(MIXTURE),
    "broad": Mixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[0.4, -0.2], [-0.3, 0.5]], dtype=torch.float64),
        torch.tensor([[[1.5, 0.2], [0.2, 0.4]], [[0.3, 0.0], [0.0, 1.6]]], dtype=torch.float64),
    ),
    "random in three dimensions": random_law(3),
}
DEGREES = {"standardised": 1, "centred gaussian": 1, "whitened": 2}  # moments that are the noise's; 0 for others
every_law = pytest.mark.parametrize("name", list(LAWS))
every_time = pytest.mark.parametrize("time", TIMES)


def quadrature(law: Mixture, limit: float = 18.0, points: int = 700) -> float:
    """∫ p²/q - 1 over [-limit, limit]² by the midpoint rule, which converges exponentially here."""
    cell = 2 * limit / points
    axis = -limit + cell * (torch.arange(points, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(axis, axis)
    log_q = -0.5 * (x**2).sum(1) - math.log(2 * math.pi)
    return float((2 * law.log_prob(x) - log_q).exp().sum() * cell**2) - 1


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.means.shape[1] == 2])
@pytest.mark.parametrize("time", [0.0, 0.3])
def test_closed_form_is_the_integral(name: str, time: float) -> None:
    law = LAWS[name]
    assert chi_square(law, time) == pytest.approx(quadrature(law.diffused(time)), rel=1e-9)


@every_law
def test_mixture_is_the_formula_with_inverses(name: str) -> None:
    """Σ w_i w_j (|S_i||S_j||B|)^-½ exp(½ [bᵀB⁻¹b - m_iᵀS_i⁻¹m_i - m_jᵀS_j⁻¹m_j]) - 1."""
    law, total = LAWS[name], -1.0
    eye = torch.eye(law.means.shape[1], dtype=torch.float64)
    parts = list(zip(law.weights, law.means, law.covariances, law.covariances.inverse(), strict=True))
    for w_i, m_i, s_i, p_i in parts:
        for w_j, m_j, s_j, p_j in parts:
            matrix, b = p_i + p_j - eye, p_i @ m_i + p_j @ m_j
            exponent = b @ matrix.inverse() @ b - m_i @ p_i @ m_i - m_j @ p_j @ m_j
            total += float(w_i * w_j * torch.exp(exponent / 2) / (s_i.det() * s_j.det() * matrix.det()).sqrt())
    assert chi_square(law) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_is_the_formula_with_determinants(seed: int) -> None:
    """1 + χ² = exp(mᵀ(2I - S)⁻¹m) / √(|S||2I - S|)."""
    law = random_law(seed, d=4, components=1)
    m, s = law.means[0], law.covariances[0]
    rest = 2 * torch.eye(4, dtype=torch.float64) - s
    want = (torch.exp(m @ torch.linalg.solve(rest, m)) / (s.det() * rest.det()).sqrt()).item() - 1
    assert gaussian_chi_square(m, s) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
@every_time
def test_mixture_of_equal_components_is_the_gaussian(seed: int, time: float) -> None:
    law = random_law(seed, components=1)
    m, s = law.means[0], law.covariances[0]
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    triple = mixture_chi_square(weights, m.expand(3, -1), s.expand(3, -1, -1), time)
    assert chi_square(law, time) == pytest.approx(gaussian_chi_square(m, s, time), rel=1e-9)
    assert triple == pytest.approx(gaussian_chi_square(m, s, time), rel=1e-9)


@every_law
@every_time
def test_time_is_that_of_the_diffused_law(name: str, time: float) -> None:
    """And OU time adds up: p_(s+t) is p_s after t."""
    law = LAWS[name]
    means, covariances = ou_marginal(law.means, law.covariances, time)
    diffused = law.diffused(time)
    torch.testing.assert_close((means, covariances), (diffused.means, diffused.covariances), rtol=0, atol=1e-14)
    # the diffused law's S - I is rounded to 1e-16, the closed form's is not
    assert chi_square(law, time) == pytest.approx(chi_square(diffused), rel=1e-9, abs=1e-14)
    assert chi_square(law, time + 0.4) == pytest.approx(chi_square(diffused, 0.4), rel=1e-9, abs=1e-14)
    one, s = diffused.means[0], diffused.covariances[0]
    want = gaussian_chi_square(law.means[0], law.covariances[0], time)
    assert gaussian_chi_square(one, s) == pytest.approx(want, rel=1e-9, abs=1e-14)


@every_law
def test_decay_law(name: str) -> None:
    """χ²_t e^(2(k+1)t) never rises, k being the degree to which moments are the noise's; k = 0 is Prop. 4.1."""
    law, degree = LAWS[name], DEGREES.get(name, 0)
    times = [0.05 * k for k in range(41)]
    for k in range(degree + 1):
        scaled = [chi_square(law, t) * math.exp(2 * (k + 1) * t) for t in times]
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(scaled))
        assert all(chi_square(law, t) <= chi_square_bound(scaled[0], t, k) * (1 + 1e-12) for t in times)


@every_law
def test_moments_give_the_late_decay_and_a_lower_bound(name: str) -> None:
    law = LAWS[name]
    for t in (*TIMES, 6.0):
        low = chi_square_from_moments(law.mean, law.covariance, t)
        assert low <= chi_square(law, t) * (1 + 1e-9) + 1e-15
    if name != "whitened":  # where nothing of these degrees is left
        assert chi_square(law, 6.0) == pytest.approx(low, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_rate_is_the_bounds_if_and_only_if_the_mean_is_not_zero(seed: int) -> None:
    law = random_law(seed, components=1)
    m, s = law.means[0], law.covariances[0]
    t = 7.0
    assert gaussian_chi_square(m, s, t) * math.exp(2 * t) == pytest.approx(float(m @ m), rel=1e-4)
    half = 0.5 * float(((s - torch.eye(3, dtype=torch.float64)) ** 2).sum())
    assert gaussian_chi_square(0 * m, s, t) * math.exp(4 * t) == pytest.approx(half, rel=1e-6)
    assert gaussian_chi_square(0 * m, s, t) * math.exp(2 * t) < 1e-4


def test_whitened_laws_lose_both_degrees() -> None:
    """A whitened Gaussian is the noise; of a whitened mixture only degree 3 and above is left: e^-6t."""
    identity = torch.eye(3, dtype=torch.float64)
    assert gaussian_chi_square(torch.zeros(3), identity) == 0
    late = [chi_square(LAWS["whitened"], t) * math.exp(6 * t) for t in (3.5, 4.0)]
    assert late[1] == pytest.approx(late[0], rel=0.01)


@pytest.mark.parametrize(("delta", "want"), [(0.01, 15.3), (0.05, 2.51), (0.2, 0.44)])
def test_two_atoms_after_initial_diffusion(delta: float, want: float) -> None:
    """Recorded figures: points ±0.7 in the plane. Without diffusion atoms have no density."""
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    points = torch.tensor([[0.7, 0.0], [-0.7, 0.0]], dtype=torch.float64)
    atoms = (weights, points, torch.zeros(2, 2, 2, dtype=torch.float64))
    assert mixture_chi_square(*atoms, delta) == pytest.approx(want, rel=5e-3)
    assert mixture_chi_square(*atoms) == math.inf


@pytest.mark.parametrize("largest", [2.0, 2.5, 20.0])
def test_infinite_until_the_variance_falls_below_two(largest: float) -> None:
    """λ ≥ 2 gives inf until t > ½ log(λ - 1); in a mixture, if the component has any weight."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    covariance = turn @ torch.diag(torch.tensor([largest, 1.0, 0.5], dtype=torch.float64)) @ turn.T
    mean, limit = torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64), 0.5 * math.log(largest - 1)
    narrow = 0.5 * torch.eye(3, dtype=torch.float64)
    pair = (mean.expand(2, -1), torch.stack([covariance, narrow]))
    some, none = torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for time in (0.0, 0.5 * limit, limit):
        assert gaussian_chi_square(mean, covariance, time) == math.inf
        assert mixture_chi_square(some, *pair, time) == math.inf
        assert mixture_chi_square(none, *pair, time) == pytest.approx(gaussian_chi_square(mean, narrow, time))
    # just beyond, χ² itself is too large for float64
    assert math.isfinite(gaussian_renyi(mean, covariance, limit + 1e-6))
    assert math.isfinite(mixture_renyi(some, *pair, limit + 1e-6))
    assert gaussian_chi_square(mean, covariance, math.inf) == 0
    assert chi_square_bound(math.inf, 1.0) == math.inf


def test_singular_gaussian_has_no_density_until_diffused() -> None:
    direction = torch.tensor([0.6, 0.48, 0.64], dtype=torch.float64)
    flat = torch.outer(direction, direction)  # its zero eigenvalues come out as ±1e-17
    assert gaussian_chi_square(torch.zeros(3), flat) == math.inf
    assert math.isfinite(gaussian_chi_square(torch.zeros(3), flat, 0.01))


def test_divergences_beyond_float64_keep_their_logarithm() -> None:
    """d = 40 and means of 5: χ² is e^1000; float32 inputs are computed in float64."""
    mean, covariance = torch.full((40,), 5.0), torch.eye(40)
    weights = torch.tensor([0.5, 0.5])
    both = (weights, mean.expand(2, -1), covariance.expand(2, -1, -1))
    assert gaussian_chi_square(mean, covariance) == math.inf
    assert gaussian_renyi(mean, covariance) == pytest.approx(1000.0, rel=1e-12)
    assert mixture_chi_square(*both) == math.inf
    assert mixture_renyi(*both) == pytest.approx(1000.0, rel=1e-12)
    assert mixture_renyi(*both, 2.0) == pytest.approx(1000.0 * ou_moments(2.0)[0] ** 2, rel=1e-12)


@every_law
@every_time
def test_renyi_is_its_logarithm(name: str, time: float) -> None:
    law = LAWS[name]
    assert math.expm1(mixture_renyi(law.weights, law.means, law.covariances, time)) == pytest.approx(
        chi_square(law, time), rel=1e-9, abs=1e-14
    )


def test_mistakes_are_named() -> None:
    mean, covariance = torch.zeros(2), torch.eye(2)
    with pytest.raises(LFMError, match="time: -1"):
        gaussian_chi_square(mean, covariance, -1.0)
    with pytest.raises(LFMError, match="time: nan"):
        chi_square_bound(1.0, math.nan)
    with pytest.raises(LFMError, match="eigenvalue -3"):
        gaussian_chi_square(mean, torch.diag(torch.tensor([1.0, -3.0])))
    with pytest.raises(LFMError, match="weights"):
        mixture_chi_square(torch.tensor([0.7]), mean[None], covariance[None])
