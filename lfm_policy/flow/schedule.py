"""Step sizes of the chain of sub-flows and the moments of the Ornstein-Uhlenbeck transition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lfm_policy.flow.errors import LFMError

LATEST = 8.0  # OU time at which data of deviation 1 have kept 3e-4 of it


def ou_moments(gamma: float) -> tuple[float, float]:
    """Coefficients (e^-γ, sqrt(1 - e^-2γ)) of x_r = e^-γ x_l + sqrt(1 - e^-2γ) z over OU time γ.

    γ = inf gives (0, 1): the noise itself. Eq. (6) of the paper.
    """
    return math.exp(-gamma), math.sqrt(-math.expm1(-2.0 * gamma))


def ou_angle(gamma: float) -> float:
    """Angle arccos e^-γ in [0, π/2] by which the OU transition turns data towards noise."""
    mean, std = ou_moments(gamma)
    return math.atan2(std, mean)


@dataclass(frozen=True)
class Schedule:
    """Step sizes γ_1 … γ_(N-1) in OU time; the last sub-flow N goes to N(0, I) itself.

    Sub-flow n (counted from 1) covers OU times [t_(n-1), t_n] with t_n = γ_1 + … + γ_n and t_N = inf,
    and the stretch [τ_(n-1), τ_n] of the chain's clock τ_n = (2/π) arccos e^(-t_n) from 0 (data) to
    1 (noise). Empty `gammas` is N = 1, a single flow.
    """

    gammas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        bad = [g for g in self.gammas if not (math.isfinite(g) and g > 0)]
        if bad:
            raise LFMError(f"schedule: step size {bad[0]} must be positive and finite")
        if sum(self.gammas) > LATEST:
            raise LFMError(
                f"schedule: the last sub-flow would begin at OU time {sum(self.gammas):.3g}, where nothing of the data "
                "is left; lower c, rho or n_subflows"
            )

    @classmethod
    def geometric(cls, n_subflows: int, c: float, rho: float) -> Schedule:
        """γ_n = ρ^(n-1) c for n = 1 … N-1 (Eq. 25)."""
        if n_subflows < 1:
            raise LFMError(f"flow.n_subflows: {n_subflows} must be at least 1")
        return cls(tuple(c * rho**n for n in range(n_subflows - 1)))

    @property
    def n_subflows(self) -> int:
        """N."""
        return len(self.gammas) + 1

    @property
    def times(self) -> tuple[float, ...]:
        """OU times t_0 = 0, t_1, …, t_N = inf; N + 1 numbers."""
        return _cumulative(self.gammas)

    @property
    def clock(self) -> tuple[float, ...]:
        """Clock readings τ_0 = 0, …, τ_N = 1; N + 1 numbers."""
        return tuple(ou_angle(t) * 2.0 / math.pi for t in self.times)

    def gamma(self, n: int) -> float:
        """Step size of sub-flow n = 1 … N; inf for the last."""
        return self.gammas[n - 1] if n < self.n_subflows else math.inf


def _cumulative(gammas: Sequence[float]) -> tuple[float, ...]:
    times = [0.0]
    for gamma in gammas:
        times.append(times[-1] + gamma)
    return (*times, math.inf)
