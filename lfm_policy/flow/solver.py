"""ODE solvers: fixed steps (Euler, midpoint, Heun, RK4) and adaptive ones through torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError

Field = Callable[[Tensor, float], Tensor]
MethodName = Literal["euler", "midpoint", "heun", "rk4", "dopri5"]


def euler_step(f: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Order 1."""
    return x + h * f(x, t)


def midpoint_step(f: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Order 2; never evaluates the end t + h, where velocities of sub-flows can be stiff."""
    return x + h * f(x + 0.5 * h * f(x, t), t + 0.5 * h)


def heun_step(f: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Order 2, the trapezoidal predictor-corrector."""
    k1 = f(x, t)
    return x + 0.5 * h * (k1 + f(x + h * k1, t + h))


def rk4_step(f: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Order 4, the classical Runge-Kutta step."""
    k1 = f(x, t)
    k2 = f(x + 0.5 * h * k1, t + 0.5 * h)
    k3 = f(x + 0.5 * h * k2, t + 0.5 * h)
    k4 = f(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True)
class FixedStep:
    """A fixed-step rule: its step function, evaluations per step and order of convergence."""

    step: Callable[[Field, Tensor, float, float], Tensor]
    evaluations: int
    order: int


FIXED_STEP: dict[str, FixedStep] = {
    "euler": FixedStep(euler_step, 1, 1),
    "midpoint": FixedStep(midpoint_step, 2, 2),
    "heun": FixedStep(heun_step, 2, 2),
    "rk4": FixedStep(rk4_step, 4, 4),
}


@dataclass(frozen=True)
class Solver:
    """How one sub-flow's ODE is solved. The midpoint rule is the default: see docs/decisions.md.

    Args:
        method: a fixed-step rule, or the adaptive `dopri5`.
        steps: equal steps per sub-flow of a fixed-step rule.
        rtol: relative tolerance of `dopri5`.
        atol: absolute tolerance of `dopri5`.
        max_evaluations: of the velocity in one solve, beyond which `dopri5` gives up.
    """

    method: MethodName = "midpoint"
    steps: int = 2
    rtol: float = 1e-5
    atol: float = 1e-5
    max_evaluations: int = 10_000

    def __post_init__(self) -> None:
        if self.method not in (*FIXED_STEP, "dopri5"):
            known = ", ".join((*FIXED_STEP, "dopri5"))
            raise LFMError(f"sampler.method: '{self.method}' is not one of {known}")
        if self.steps < 1:
            raise LFMError(f"sampler.steps: {self.steps} must be at least 1")
        for name in ("rtol", "atol", "max_evaluations"):
            if not getattr(self, name) > 0:
                raise LFMError(f"sampler.{name}: {getattr(self, name)} must be positive")

    @property
    def evaluations(self) -> int | None:
        """Velocity evaluations per sub-flow; None where the tolerance decides."""
        rule = FIXED_STEP.get(self.method)
        return rule.evaluations * self.steps if rule else None

    def integrate(self, f: Field, x: Tensor, t0: float, t1: float) -> Tensor:
        """Solution at t1 of dx/dt = f(x, t) from x (B, ...) at t0; t1 < t0 runs backwards.

        Raises LFMError where an adaptive solve meets non-finite values, a vanishing step or its limit.
        """
        if self.method == "dopri5":
            return _integrate_adaptive(f, x, t0, t1, self)
        step = FIXED_STEP[self.method].step
        h = (t1 - t0) / self.steps
        for k in range(self.steps):
            x = step(f, x, t0 + k * h, h)
        return x


def _integrate_adaptive(f: Field, x: Tensor, t0: float, t1: float, solver: Solver) -> Tensor:
    from torchdiffeq import odeint

    evaluations = 0

    def guarded(t: Tensor, state: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        if evaluations > solver.max_evaluations:
            raise LFMError(
                f"sampler.max_evaluations: {solver.max_evaluations} evaluations did not reach "
                f"rtol {solver.rtol:g}; loosen it or use sampler.method: rk4"
            )
        now = t.detach().item()
        velocity = f(state, now)
        if not torch.isfinite(velocity).all():
            raise LFMError(f"sampler.method: dopri5 met a non-finite velocity at t = {now:.4f}; use rk4")
        return velocity

    # float64 times: in float32 a small step would vanish against t
    times = torch.tensor([t0, t1], dtype=torch.float64, device=x.device)
    try:
        # a step ends at t1 exactly: otherwise the last one overshoots and evaluates outside [t0, t1]
        options = {"norm": _worst_sample_norm, "step_t": times[1:]}
        result = odeint(guarded, x, times, rtol=solver.rtol, atol=solver.atol, method="dopri5", options=options)
    except AssertionError as error:
        raise LFMError(f"sampler.method: dopri5 failed ({error}); loosen sampler.rtol or use rk4") from error
    return result[-1]


def _worst_sample_norm(x: Tensor) -> Tensor:
    """Largest RMS over the batch: torchdiffeq's own norm averages over it and hides one bad sample."""
    return x.reshape(x.shape[0], -1).pow(2).mean(dim=1).sqrt().max() if x.dim() else x.abs()
