"""Velocity fields in closed form, and laws of data whose every OU marginal is known: they stand in for networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lfm_policy.flow import LocalFlow, Schedule


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture with weights (K,), means (K, d) and covariances (K, d, d), all float64."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def gaussian(cls, mean: list[float], covariance: list[list[float]]) -> Mixture:
        """One component."""
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)
        return cls(torch.ones(1, dtype=torch.float64), m[None], s[None])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, d)."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[component] + (roots[component] @ noise[..., None])[..., 0]

    def diffused(self, gamma: float) -> Mixture:
        """The OU marginal after time γ: means r m, covariances r² S + σ² I."""
        r = math.exp(-gamma)
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        return Mixture(self.weights, r * self.means, r**2 * self.covariances + (1 - r**2) * eye)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,) in nats."""
        normal = torch.distributions.MultivariateNormal(self.means, self.covariances)
        return (normal.log_prob(x[:, None]) + self.weights.log()).logsumexp(1)

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """(d, d)."""
        centred = self.means - self.mean
        spread = self.covariances + centred[:, :, None] * centred[:, None, :]
        return (self.weights[:, None, None] * spread).sum(0)

    def entropy(self, limit: float = 6.0, points: int = 400) -> float:
        """-∫ p log p over [-limit, limit]² by the midpoint rule, in nats; two dimensions."""
        cell = 2 * limit / points
        axis = -limit + cell * (torch.arange(points, dtype=torch.float64) + 0.5)
        log_p = self.log_prob(torch.cartesian_prod(axis, axis))
        return float(-(log_p.exp() * log_p).sum() * cell**2)


GAUSSIAN = Mixture.gaussian([0.6, -0.4], [[0.9, 0.35], [0.35, 0.25]])

_ANGLES = torch.arange(4, dtype=torch.float64) * math.pi / 2 + 0.4
MIXTURE = Mixture(
    torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
    1.2 * torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1),
    torch.stack([torch.tensor([[0.10, 0.03 * k], [0.03 * k, 0.06]], dtype=torch.float64) for k in (-2, -1, 1, 2)]),
)

# Easy to learn, and far from Gaussian: the best Gaussian is 0.60 nats away.
TWO = Mixture(
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[-1.2, -0.4], [1.0, 0.3]], dtype=torch.float64),
    torch.tensor([[[0.15, 0.08], [0.08, 0.20]], [[0.20, -0.10], [-0.10, 0.15]]], dtype=torch.float64),
)

Path = tuple[Tensor, Tensor, Tensor, Tensor]  # α, β, dα/dt, dβ/dt


def weights_of_ends(interpolant: str, t: Tensor, angle: float) -> Path:
    """c, s of I_t = c x_l + s x_r and their derivatives, written down anew."""
    if interpolant == "ot":
        return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
    if interpolant == "trigonometric":
        phi, k = math.pi / 2 * t, math.pi / 2
        return phi.cos(), phi.sin(), -k * phi.sin(), k * phi.cos()
    # geodesic: sin(θ - θt) = sin θ cos θt - cos θ sin θt
    phi, cot = angle * t, math.cos(angle) / math.sin(angle)
    s, ds = phi.sin() / math.sin(angle), angle * phi.cos() / math.sin(angle)
    return phi.cos() - cot * phi.sin(), s, -angle * (phi.sin() + cot * phi.cos()), ds


def path_moments(schedule: Schedule, n: int, interpolant: str, coupling: str, t: Tensor) -> Path:
    """α, β of I_t = α x + β z and derivatives; x is x_l for fresh ends and x_0 for common noise."""
    start, gamma = schedule.times[n - 1], schedule.gamma(n)
    if coupling == "fresh":
        (left, right), angle = ((1.0, 0.0), _moments(gamma)), math.acos(math.exp(-gamma))
    else:
        left, right = _moments(start), _moments(start + gamma)
        angle = math.acos(right[0]) - math.acos(left[0])
    c, s, dc, ds = weights_of_ends(interpolant, t, angle)
    return (
        c * left[0] + s * right[0],
        c * left[1] + s * right[1],
        dc * left[0] + ds * right[0],
        dc * left[1] + ds * right[1],
    )


class MixtureField(nn.Module):
    """E[dI_t/dt | I_t = x] of sub-flow n, per unit of the clock, for coupled ends of mixture data.

    In the eigenbasis of a component: mean α m, variance C = α² λ + β², slope K / C with K = α α' λ + β β'.
    """

    def __init__(self, data: Mixture, schedule: Schedule, n: int, interpolant: str, coupling: str = "fresh") -> None:
        super().__init__()
        self.schedule, self.n, self.interpolant, self.coupling = schedule, n, interpolant, coupling
        self.source = data.diffused(schedule.times[n - 1]) if coupling == "fresh" else data
        self.eigenvalues, self.basis = torch.linalg.eigh(self.source.covariances)  # (K, d), (K, d, d)

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        start, end = self.schedule.clock[self.n - 1 : self.n + 1]
        return self.velocity(x, (tau - start) / (end - start)) / (end - start)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity per unit of the sub-flow's own time t (B,) at x (B, d)."""
        path = path_moments(self.schedule, self.n, self.interpolant, self.coupling, t)
        alpha, beta, d_alpha, d_beta = (value[:, None, None] for value in path)  # (B, 1, 1)
        variance = alpha**2 * self.eigenvalues + beta**2  # (B, K, d)
        slope = (alpha * d_alpha * self.eigenvalues + beta * d_beta) / variance
        y = ((x[:, None] - alpha * self.source.means)[..., None, :] @ self.basis)[..., 0, :]
        log_weight = self.source.weights.log() - 0.5 * (y**2 / variance + variance.log()).sum(-1)
        each = d_alpha * self.source.means + (self.basis @ (slope * y)[..., None])[..., 0]
        return (log_weight.softmax(1)[..., None] * each).sum(1)


class IndependentField(nn.Module):
    """The same for independent ends of Gaussian data: C = c² S + s² S_r, K = c c' S + s s' S_r."""

    def __init__(self, data: Mixture, schedule: Schedule, n: int, interpolant: str) -> None:
        super().__init__()
        self.schedule, self.n, self.interpolant = schedule, n, interpolant
        self.left = data.diffused(schedule.times[n - 1])
        self.right = self.left.diffused(schedule.gamma(n))

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity per unit of the sub-flow's own time t (B,) at x (B, d)."""
        angle = math.acos(math.exp(-self.schedule.gamma(self.n)))
        c, s, dc, ds = (v[:, None] for v in weights_of_ends(self.interpolant, t, angle))
        left, right = self.left.covariances[0], self.right.covariances[0]
        variance = (c**2)[..., None] * left + (s**2)[..., None] * right
        slope = (c * dc)[..., None] * left + (s * ds)[..., None] * right
        centred = x - c * self.left.means - s * self.right.means
        moved = slope @ torch.linalg.solve(variance, centred[..., None])
        return dc * self.left.means + ds * self.right.means + moved[..., 0]


class LinearField(nn.Module):
    """v(x, τ) = A x + u τ + b; its flow is a matrix exponential."""

    def __init__(self, matrix: Tensor, slope: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.matrix, self.slope, self.offset = matrix, slope, offset

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        return x @ self.matrix.T + tau[:, None] * self.slope + self.offset

    def exact(self, x: Tensor, start: float, end: float) -> Tensor:
        """The solution at τ = `end` from x (B, d) at τ = `start`, through exp of the system (x, τ, 1)."""
        d = len(self.matrix)
        system = torch.zeros(d + 2, d + 2, dtype=x.dtype)
        system[:d, :d], system[:d, d], system[:d, d + 1], system[d, d + 1] = self.matrix, self.slope, self.offset, 1.0
        state = torch.cat([x, torch.full_like(x[:, :1], start), torch.ones_like(x[:, :1])], dim=1)
        return (state @ torch.matrix_exp(system * (end - start)).T)[:, :d]


def linear_field(seed: int, d: int = 3) -> LinearField:
    """A random linear field with eigenvalues of order one."""
    g = torch.Generator().manual_seed(seed)
    matrix, slope, offset = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((d, d), (d,), (d,)))
    return LinearField(matrix, slope, offset)


def ideal_flow(data: Mixture, schedule: Schedule, interpolants: list[str], couplings: list[str]) -> LocalFlow:
    """The chain that perfect training gives."""
    settings = enumerate(zip(interpolants, couplings, strict=True), start=1)
    return LocalFlow([MixtureField(data, schedule, n, i, c) for n, (i, c) in settings], schedule)


def _moments(gamma: float) -> tuple[float, float]:
    return math.exp(-gamma), math.sqrt(1 - math.exp(-2 * gamma))
