"""The chain of sub-flows: push towards noise, pull towards data, sample, log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_policy.flow.divergence import exact_divergence, hutchinson_divergence
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.random import normal, signs
from lfm_policy.flow.schedule import Schedule
from lfm_policy.flow.solver import Field, Solver


def stretch_velocity(
    field: nn.Module, schedule: Schedule, n: int, x: Tensor, t: float | Tensor, cond: Tensor | None
) -> Tensor:
    """dx/dt (B, *shape) at t in [0, 1] of stretch n from a field per unit of the chain's clock."""
    start, end = schedule.clock[n - 1 : n + 1]
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])
    return (end - start) * field(x, start + (end - start) * t, cond)


class LocalFlow(nn.Module):
    """N sub-flows in sequence, each a velocity field on its own stretch of one clock.

    A velocity field is `v(x, tau, cond=None)` with x (B, *shape), tau (B,) in [0, 1] on the chain's
    clock and cond (B, C) or None; it returns velocity per unit of the clock, (B, *shape). Give N of
    them, or one that all stretches share. Sub-flows are counted from n = 1 (data) to N (noise).
    """

    def __init__(self, fields: Sequence[nn.Module], schedule: Schedule) -> None:
        super().__init__()
        if len(fields) not in (1, schedule.n_subflows):
            raise LFMError(
                f"fields: {len(fields)} networks for {schedule.n_subflows} sub-flows; give one each, or one for all"
            )
        self.fields = nn.ModuleList(fields)
        self.schedule = schedule

    @property
    def n_subflows(self) -> int:
        """N."""
        return self.schedule.n_subflows

    @property
    def shares_weights(self) -> bool:
        """Whether one network serves all stretches (N > 1)."""
        return len(self.fields) == 1 and self.n_subflows > 1

    def field(self, n: int) -> nn.Module:
        """Velocity field of sub-flow n = 1 … N."""
        return self.fields[0 if len(self.fields) == 1 else n - 1]

    def velocity(self, n: int, x: Tensor, t: float | Tensor, cond: Tensor | None = None) -> Tensor:
        """dx/dt of sub-flow n at its own time t in [0, 1]: the field's velocity times the stretch's length."""
        return stretch_velocity(self.field(n), self.schedule, n, x, t, cond)

    def push(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        solver: Solver | None = None,
        subflows: Sequence[int] | None = None,
    ) -> Tensor:
        """T_N ∘ … ∘ T_1 of x (B, *shape): data to noise; `subflows` names other n, in their order."""
        for n in range(1, self.n_subflows + 1) if subflows is None else subflows:
            x = (solver or Solver()).integrate(self._field(n, cond), x, 0.0, 1.0)
        return x

    def pull(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        solver: Solver | None = None,
        subflows: Sequence[int] | None = None,
    ) -> Tensor:
        """T_1⁻¹ ∘ … ∘ T_N⁻¹ of x (B, *shape): noise to data; `subflows` names other n, in their order."""
        for n in range(self.n_subflows, 0, -1) if subflows is None else subflows:
            x = (solver or Solver()).integrate(self._field(n, cond), x, 1.0, 0.0)
        return x

    def sample(
        self,
        shape: tuple[int, ...],
        cond: Tensor | None = None,
        solver: Solver | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples (B, *shape) pulled from fresh N(0, I) noise, with cond (B, C) or None."""
        noise = normal(shape, next(self.parameters()), generator)
        return self.pull(noise, cond, solver)

    def log_prob(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        solver: Solver | None = None,
        n_probes: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) (B,) in nats: log N(x_N; 0, I) plus the divergence along the push (Eq. 26).

        The exact trace with `n_probes` = 0, else Hutchinson's estimate from that many fixed Rademacher
        probes. The default solver is RK4 with 8 steps per sub-flow.
        """
        solver = solver or Solver("rk4", steps=8)
        flat, shape = x.flatten(1), x.shape
        probes = signs((n_probes, *flat.shape), flat, generator) if n_probes else None
        state = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
        for n in range(1, self.n_subflows + 1):
            state = solver.integrate(self._augmented(n, shape, cond, probes), state, 0.0, 1.0)
        end, divergence = state[:, :-1], state[:, -1]
        log_normal = -0.5 * end.pow(2).sum(1) - 0.5 * end.shape[1] * math.log(2 * math.pi)
        return log_normal + divergence

    def _field(self, n: int, cond: Tensor | None) -> Field:
        return lambda x, t: self.velocity(n, x, t, cond)

    def _augmented(self, n: int, shape: torch.Size, cond: Tensor | None, probes: Tensor | None) -> Field:
        """Field of the state [x, ∫ div v] (B, d + 1)."""

        def field(state: Tensor, t: float) -> Tensor:
            def v(x: Tensor) -> Tensor:
                return self.velocity(n, x.reshape(shape), t, cond).flatten(1)

            evaluate = exact_divergence(v) if probes is None else hutchinson_divergence(v, probes)
            velocity, divergence = evaluate(state[:, :-1])
            return torch.cat([velocity, divergence[:, None]], dim=1)

        return field
