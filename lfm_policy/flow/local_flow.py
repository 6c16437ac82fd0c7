"""The chain of sub-flows: push towards noise, pull towards data, sample, log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lfm_policy.flow.divergence import (
    MEMORY,
    bytes_per_sample,
    exact_divergence,
    hutchinson_divergence,
    rademacher_probes,
)
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.random import normal
from lfm_policy.flow.schedule import Schedule
from lfm_policy.flow.solver import Field, Solver

ROWS = 64  # dimensions whose reverse passes are vectorised together before samples are split off


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

    def push_with_log_det(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        solver: Solver | None = None,
        probes: Tensor | None = None,
        subflows: Sequence[int] | None = None,
        memory: int = MEMORY,
    ) -> tuple[Tensor, Tensor]:
        """x pushed on (B, *shape), and log |det| of the push's Jacobian in nats (Eq. 26).

        The exact trace (B, 1), or with Rademacher `probes` (K, B, d) Hutchinson's K estimates (B, K), each
        with one probe all along the path. Works in pieces whose reverse passes stay below `memory` bytes.
        The default solver is RK4 with 8 steps per sub-flow; `subflows` names other n, in their order.
        """
        solver = solver or Solver("rk4", steps=8)
        chosen = range(1, self.n_subflows + 1) if subflows is None else subflows
        columns = 1 if probes is None else len(probes)
        piece, rows = self._pieces(x, cond, probes, memory)
        ends, log_dets = [], []
        for i in range(0, max(1, len(x)), piece):
            part = slice(i, i + piece)
            signs_part = None if probes is None else probes[:, part]
            augmented = self._augmenter(x.shape[1:], None if cond is None else cond[part], signs_part, rows)
            state = nn.functional.pad(x[part].flatten(1), (0, columns))
            for n in chosen:
                state = solver.integrate(augmented(n), state, 0.0, 1.0)
            ends.append(state[:, :-columns].reshape(-1, *x.shape[1:]))
            log_dets.append(state[:, -columns:])
        return torch.cat(ends), torch.cat(log_dets)

    def log_prob(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        solver: Solver | None = None,
        n_probes: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) (B,) in nats: log N(x_N; 0, I) plus the log |det| of the push (Eq. 26).

        The exact trace with `n_probes` = 0, else the mean of Hutchinson's estimates from that many fixed
        Rademacher probes. The default solver is RK4 with 8 steps per sub-flow; `converged_log_prob` finds
        out how many are enough.
        """
        probes = rademacher_probes(x, n_probes, generator) if n_probes else None
        end, log_det = self.push_with_log_det(x, cond, solver, probes)
        return log_standard_normal(end) + log_det.mean(1)

    def _field(self, n: int, cond: Tensor | None) -> Field:
        return lambda x, t: self.velocity(n, x, t, cond)

    def _pieces(self, x: Tensor, cond: Tensor | None, probes: Tensor | None, memory: int) -> tuple[int, int]:
        """Samples of a piece, and how many of its dimensions' reverse passes are vectorised together."""
        dim = x.shape[1:].numel()
        if len(x) == 0 or x.device.type == "meta":
            return max(1, len(x)), dim
        one = None if cond is None else cond[:1]
        each = bytes_per_sample(lambda y: self.velocity(1, y, 0.5, one), x[:1], self)
        together = min(dim, ROWS) if probes is None else len(probes)
        piece = min(len(x), max(1, memory // (each * together)))
        return piece, max(1, min(dim, memory // (each * piece)))

    def _augmenter(
        self, shape: torch.Size, cond: Tensor | None, probes: Tensor | None, rows: int
    ) -> Callable[[int], Field]:
        """Sub-flow n -> field of the state [x, ∫ div v] (B, d + K)."""

        def augmented(n: int) -> Field:
            def field(state: Tensor, t: float) -> Tensor:
                def v(x: Tensor) -> Tensor:
                    return self.velocity(n, x.reshape(-1, *shape), t, cond).flatten(1)

                evaluate = exact_divergence(v, rows) if probes is None else hutchinson_divergence(v, probes)
                columns = 1 if probes is None else len(probes)
                return torch.cat(evaluate(state[:, :-columns]), dim=1)

            return field

        return augmented


def log_standard_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I) (B,) in nats of x (B, *shape)."""
    flat = x.flatten(1)
    return -0.5 * flat.pow(2).sum(1) - 0.5 * flat.shape[1] * math.log(2 * math.pi)
