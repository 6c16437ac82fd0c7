"""What a sub-flow is regressed on: its pair of ends, a time, the point between and its velocity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.interpolant import INTERPOLANTS, InterpolantName, interpolate
from lfm_policy.flow.random import normal, permutation, uniform
from lfm_policy.flow.schedule import Schedule, ou_angle, ou_moments

CouplingName = Literal["fresh", "common", "independent", "ot"]
MarginalsName = Literal["pushed", "exact"]
COUPLINGS: tuple[CouplingName, ...] = ("fresh", "common", "independent", "ot")


class Ends(NamedTuple):
    """x_l and x_r (B, *shape), and the angle between them on the circle from data to noise."""

    left: Tensor
    right: Tensor
    angle: float


class Regression(NamedTuple):
    """A point x (B, *shape) at time t (B,), the value wanted there, and what its error counts (B,) if not 1."""

    x: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor | None = None

    def part(self, part: slice) -> Regression:
        """Some of the samples."""
        return Regression(*(None if tensor is None else tensor[part] for tensor in self))  # type: ignore[arg-type]


class Objective(Protocol):
    """What networks are regressed on; `Matching` is a flow's, and other objectives train other models alike."""

    @property
    def marginals(self) -> MarginalsName:
        """Whether a network's samples are the data, or the data pushed through the networks before it."""
        ...

    def draw(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Regression:
        """Regression problem of network n on samples x (B, *shape); t is a time within its stretch."""
        ...

    def check_condition(self, cond: Tensor | None) -> None:
        """Raise LFMError where the objective cannot learn conditional models."""
        ...


@dataclass(frozen=True)
class Matching:
    """How a sub-flow's regression problem is drawn; the defaults are the paper's for robots.

    interpolant: `ot`, `trigonometric`, `geodesic`. coupling: `fresh` (x_r from x_l by the OU transition),
    `common` (both ends from one x_0 and one z; exact marginals only), `independent`, `ot` (minibatch
    optimal transport). marginals: `pushed` (x_l is what earlier sub-flows made of the data, Algorithm 1)
    or `exact` (x_l is drawn from the data's own OU marginal). Times are Beta(time_alpha, time_beta).
    """

    interpolant: InterpolantName = "ot"
    coupling: CouplingName = "fresh"
    marginals: MarginalsName = "pushed"
    time_alpha: float = 1.0
    time_beta: float = 1.0

    def __post_init__(self) -> None:
        known = {"interpolant": tuple(INTERPOLANTS), "coupling": COUPLINGS, "marginals": get_args(MarginalsName)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise LFMError(f"flow.{name}: '{getattr(self, name)}' is not one of {', '.join(values)}")
        for name in ("time_alpha", "time_beta"):
            if not getattr(self, name) > 0:
                raise LFMError(f"flow.{name}: {getattr(self, name)} must be positive")
        if self.coupling == "common" and self.marginals == "pushed":
            raise LFMError(
                "flow.coupling: common noise needs exact marginals, since pushed samples no longer know their "
                "noise; set flow.marginals: exact or flow.coupling: fresh"
            )

    def ends(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Ends:
        """Ends of sub-flow n from x (B, *shape): samples of p_(n-1) if pushed, data if exact."""
        gamma, start = schedule.gamma(n), schedule.times[n - 1]
        if self.coupling == "common":
            return _common_noise(x, start, start + gamma, generator)
        left = ou_transition(x, start, generator) if self.marginals == "exact" and n > 1 else x
        if self.coupling == "fresh":
            return Ends(left, ou_transition(left, gamma, generator), ou_angle(gamma))
        other = left[permutation(len(left), left, generator)]
        right = ou_transition(other, gamma, generator)
        if self.coupling == "ot":
            right = right[_assignment(left, right)]
        return Ends(left, right, ou_angle(gamma))

    def times(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """t (count,) ~ Beta(time_alpha, time_beta) in [0, 1]."""
        t = uniform(count, like, generator)
        return t if self.time_alpha == self.time_beta == 1 else _beta_quantile(t, self)

    def draw(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Regression:
        """Regression problem of sub-flow n: v_n(I_t, t) ≈ dI_t/dt."""
        if self.coupling == "common" and self.interpolant == "geodesic":
            start = schedule.times[n - 1]
            ends = ou_angle(start), ou_angle(start + schedule.gamma(n))
            noise, t = normal(x.shape, x, generator), self.times(len(x), x, generator)
            return _on_the_circle(x, noise, t, *ends)
        left, right, angle = self.ends(x, n, schedule, generator)
        t = self.times(len(x), x, generator)
        between, target = interpolate(self.interpolant, left, right, t, angle)
        return Regression(between, t, target)

    def check_condition(self, cond: Tensor | None) -> None:
        """Raise LFMError where ends of different conditions would be paired, which biases a conditional flow."""
        if cond is not None and self.coupling in ("independent", "ot"):
            raise LFMError(
                f"flow.coupling: {self.coupling} pairs samples of different conditions and biases a "
                "conditional flow; use fresh or common"
            )


def draw_whole_clock(x: Tensor, schedule: Schedule, generator: torch.Generator) -> Regression:
    """Regression over all stretches together: data and noise on the circle, t is the chain's clock τ.

    x_τ = cos(πτ/2) x_0 + sin(πτ/2) z is the OU marginal at clock τ with common noise, and the target is
    velocity per unit of the clock: what a shared start or shared weights train on. Every stretch gets the
    same share of the samples, as it does when sub-flows train one by one.
    """
    noise, u = normal(x.shape, x, generator), uniform(len(x), x, generator) * schedule.n_subflows
    n = u.long().clamp(max=schedule.n_subflows - 1)  # rounding may take u to N itself
    clock = torch.tensor(schedule.clock, dtype=x.dtype, device=x.device)
    t = torch.lerp(clock[n], clock[n + 1], u - n)
    between, target = interpolate("trigonometric", x, noise, t, math.pi / 2)
    return Regression(between, t, target)


def ou_transition(x: Tensor, gamma: float, generator: torch.Generator) -> Tensor:
    """e^-γ x + sqrt(1 - e^-2γ) z with fresh z ~ N(0, I) (Eq. 6)."""
    mean, std = ou_moments(gamma)
    return mean * x + std * normal(x.shape, x, generator)


def matching_loss(
    velocity: Callable[[Tensor, Tensor, Tensor | None], Tensor], problem: Regression, cond: Tensor | None
) -> Tensor:
    """‖v(x, t, c) - target‖², mean over samples and elements, each sample by its weight."""
    error = (velocity(problem.x, problem.t, cond) - problem.target).pow(2)
    return error.mean() if problem.weight is None else (error.flatten(1).mean(1) * problem.weight).mean()


def _on_the_circle(x: Tensor, noise: Tensor, t: Tensor, start: float, end: float) -> Regression:
    """The geodesic of common noise in closed form, cos φ x_0 + sin φ z with φ from `start` to `end`: a small network's
    step would spend a twentieth of its time on the two ends and the path between them."""
    angle = (start + (end - start) * t).reshape(-1, *[1] * (x.dim() - 1))
    cos, sin = angle.cos(), angle.sin()
    return Regression(cos * x + sin * noise, t, (end - start) * (cos * noise - sin * x))


def _common_noise(x: Tensor, start: float, end: float, generator: torch.Generator) -> Ends:
    noise = normal(x.shape, x, generator)
    (mean_l, std_l), (mean_r, std_r) = ou_moments(start), ou_moments(end)
    return Ends(mean_l * x + std_l * noise, mean_r * x + std_r * noise, ou_angle(end) - ou_angle(start))


def _assignment(left: Tensor, right: Tensor) -> Tensor:
    """Order of `right` that minimises the summed squared distance to `left`."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(left.flatten(1), right.flatten(1)).pow(2)
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=left.device)


def _beta_quantile(u: Tensor, matching: Matching) -> Tensor:
    """Beta quantiles of uniforms: torch's own Beta sampler takes no generator."""
    from scipy.special import betaincinv

    t = betaincinv(matching.time_alpha, matching.time_beta, u.double().cpu().numpy())
    return torch.as_tensor(t, dtype=u.dtype, device=u.device)
