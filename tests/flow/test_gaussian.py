"""Gaussian data, where velocity, block map and loss floor of every sub-flow are closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import (
    INTERPOLANTS,
    FitOptions,
    LocalFlow,
    Matching,
    Schedule,
    Solver,
    fit_local_flow,
    named_generator,
)
from lfm_policy.flow.local_flow import stretch_velocity
from lfm_policy.flow.matching import Regression, matching_loss
from tests.flow.analytic import GAUSSIAN, IndependentField, MixtureField, path_moments

SCHEDULE = Schedule.geometric(3, 0.15, 1.5)
COUNT = 100_000
every_interpolant = pytest.mark.parametrize("interpolant", list(INTERPOLANTS))
every_n = pytest.mark.parametrize("n", [1, 2, 3])


def draw(interpolant: str, coupling: str, n: int, schedule: Schedule = SCHEDULE, seed: int = 0) -> Regression:
    """A large regression problem of sub-flow n on exact marginals."""
    data = GAUSSIAN.sample(COUNT, named_generator(seed, "data"))
    return Matching(interpolant, coupling, "exact").draw(data, n, schedule, named_generator(seed, "draw"))


@every_interpolant
@every_n
@pytest.mark.parametrize("coupling", ["fresh", "common", "independent"])
def test_drawn_targets_regress_to_the_closed_form_velocity(interpolant: str, coupling: str, n: int) -> None:
    """v = E[dI/dt | I_t] iff dI/dt - v is uncorrelated with every function of (I_t, t).

    Twelve functions and two elements make 24 z-scores a case, 648 in all: 5 standard errors would be
    passed by chance with probability 4e-4.
    """
    problem = draw(interpolant, coupling, n)
    kind = IndependentField if coupling == "independent" else MixtureField
    field = kind(GAUSSIAN, SCHEDULE, n, interpolant, *[coupling] * (kind is MixtureField))
    error = problem.target - field.velocity(problem.x, problem.t)
    x, t = problem.x, problem.t[:, None]
    functions = torch.cat([torch.ones_like(t), t, t**2, x, x * t, x * t**2, x**2, x[:, :1] * x[:, 1:]], dim=1)
    products = error[:, :, None] * functions[:, None, :]
    z = products.mean(0) / products.std(0) * math.sqrt(COUNT)
    assert z.abs().max() < 5


@every_interpolant
@every_n
@pytest.mark.parametrize("coupling", ["fresh", "common"])
def test_exact_field_pushes_by_the_block_map(interpolant: str, coupling: str, n: int) -> None:
    """x -> r m + S^-½ (r² S + σ² I)^½ (x - m), whatever the interpolant; RK4's error here is below 1e-8."""
    left, right = GAUSSIAN.diffused(SCHEDULE.times[n - 1]), GAUSSIAN.diffused(SCHEDULE.times[n])
    values, vectors = torch.linalg.eigh(left.covariances[0])
    r = math.exp(-SCHEDULE.gamma(n))
    stretch = vectors @ (((r**2 * values + 1 - r**2) / values).sqrt()[:, None] * vectors.T)
    x = left.sample(50, named_generator(0, "test"))
    flow = LocalFlow([MixtureField(GAUSSIAN, SCHEDULE, k, interpolant, coupling) for k in (1, 2, 3)], SCHEDULE)
    want = right.means[0] + (x - left.means[0]) @ stretch
    solver = Solver("rk4", steps=60)
    torch.testing.assert_close(flow.push(x, solver=solver, subflows=[n]), want, atol=1e-7, rtol=0)
    torch.testing.assert_close(flow.pull(want, solver=solver, subflows=[n]), x, atol=1e-7, rtol=0)


@every_interpolant
@every_n
def test_matching_loss_of_the_exact_field_is_the_floor(interpolant: str, n: int) -> None:
    field = MixtureField(GAUSSIAN, SCHEDULE, n, interpolant)
    problem = draw(interpolant, "fresh", n)
    loss = matching_loss(lambda x, t, cond: field.velocity(x, t), problem, None)
    each = (field.velocity(problem.x, problem.t) - problem.target).pow(2).mean(1)
    error = each.std() / math.sqrt(COUNT)
    assert error < 0.01 * floor(interpolant, n)  # so that the next line can fail
    assert abs(loss - floor(interpolant, n)) < 4 * error


@pytest.mark.parametrize("interpolant", ["ot", "geodesic"])
def test_trained_affine_field_reaches_the_floor(interpolant: str) -> None:
    """v = A(τ) x + b(τ) holds the optimum; the margin of 1 % of the floor is for optimisation, polynomials and data."""
    schedule, n = Schedule((0.4,)), 1
    data = GAUSSIAN.sample(COUNT, named_generator(1, "data"))
    options = FitOptions(steps=1000, batch_size=512, learning_rate=0.02, beta1=0.9, warmup_steps=50)
    flow = LocalFlow([AffineField(schedule.clock[n]), AffineField(1.0)], schedule)
    matching = Matching(interpolant, "fresh", "exact")
    fit_local_flow(flow, data.float(), FitOptions(**{**vars(options), "matching": matching}))
    problem = draw(interpolant, "fresh", n, schedule, seed=2)
    want, fitted = MixtureField(GAUSSIAN, schedule, n, interpolant), flow.field(n).double()
    with torch.no_grad():
        excess = stretch_velocity(fitted, schedule, n, problem.x, problem.t, None) - want.velocity(problem.x, problem.t)
        loss = matching_loss(lambda x, t, c: stretch_velocity(fitted, schedule, n, x, t, c), problem, None)
    bottom = floor(interpolant, n, schedule)
    assert excess.pow(2).mean() < 0.01 * bottom
    # loss - floor has the standard error sqrt(2 / (2 M)) of a chi-square mean, 0.3 % of the floor
    assert -0.015 * bottom < loss - bottom < 0.025 * bottom


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (2.0, 5.0)])
def test_times_are_beta_distributed(alpha: float, beta: float) -> None:
    matching = Matching(time_alpha=alpha, time_beta=beta)
    t = matching.times(COUNT, torch.zeros(1, dtype=torch.float64), named_generator(0, "t"))
    assert t.min() >= 0
    assert t.max() <= 1
    law = torch.distributions.Beta(alpha, beta)
    assert abs(t.mean() - law.mean) < 4 * law.stddev / math.sqrt(COUNT)
    # Kolmogorov-Smirnov: sup |F_M - F| > 2 / sqrt(M) has probability 7e-4
    empirical = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
    cdf = torch.from_numpy(_beta_cdf(t.sort().values.numpy(), alpha, beta))
    assert (cdf - empirical).abs().max() < 2 / math.sqrt(COUNT)


class AffineField(nn.Module):
    """A(τ) x + b(τ) with polynomials of degree 5 in τ / `end`, in two dimensions."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end
        self.coefficients = nn.Parameter(torch.zeros(6, 2, 3))

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        u = 2 * tau / self.end - 1
        powers = torch.stack([torch.cos(k * torch.arccos(u.clamp(-1, 1))) for k in range(6)], dim=1)
        affine = torch.einsum("bk,kij->bij", powers, self.coefficients)
        return (affine[:, :, :2] @ x[..., None])[..., 0] + affine[:, :, 2]


def floor(interpolant: str, n: int, schedule: Schedule = SCHEDULE) -> float:
    """∫ R_t dt over elements, R_t = W² σ² tr(S C_t^-1) with W = 1, π/2, and θ / σ for the geodesic."""
    gamma = schedule.gamma(n)
    sigma2 = 1 - math.exp(-2 * gamma)
    theta = math.acos(math.exp(-gamma))
    w2_sigma2 = {"ot": sigma2, "trigonometric": (math.pi / 2) ** 2 * sigma2, "geodesic": theta**2}[interpolant]
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(60))
    alpha, beta, _, _ = path_moments(schedule, n, interpolant, "fresh", (nodes + 1) / 2)
    values = torch.linalg.eigvalsh(GAUSSIAN.diffused(schedule.times[n - 1]).covariances[0])
    ratio = (values / (alpha[:, None] ** 2 * values + beta[:, None] ** 2)).mean(1)
    return float(w2_sigma2 * (ratio * weights).sum() / 2)


def _beta_cdf(t: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    from scipy.stats import beta as law

    return law.cdf(t, alpha, beta)


def test_all_interpolants_are_known_to_the_closed_forms() -> None:
    """A new interpolant must come with its floor."""
    assert all(floor(i, n) > 0 for i, n in itertools.product(INTERPOLANTS, (1, 2, 3)))
