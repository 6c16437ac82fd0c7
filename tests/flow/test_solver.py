"""Every solver: order of convergence against matrix exponentials, both ways, and its guards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lfm_policy.flow import FIXED_STEP, LFMError, Solver
from tests.flow.analytic import LinearField, linear_field

METHODS = (*FIXED_STEP, "dopri5")
every_method = pytest.mark.parametrize("method", METHODS)
both_ways = pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])


def called(field: LinearField, x: Tensor, t: float) -> Tensor:
    return field(x, torch.full_like(x[:, 0], t))


def error(solver: Solver, start: float, end: float) -> float:
    """Worst error on the linear ODE dx/dt = A x + u t + b."""
    field = linear_field(1)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = solver.integrate(lambda x, t: called(field, x, t), x, start, end)
    return float((got - field.exact(x, start, end)).abs().max())


@pytest.mark.parametrize("method", list(FIXED_STEP))
@both_ways
def test_order_of_convergence(method: str, start: float, end: float) -> None:
    """The slope of log error over log h between 16 and 128 steps; 0.15 is for the next order's term."""
    steps = [16, 32, 64, 128]
    errors = [error(Solver(method, steps=k), start, end) for k in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(FIXED_STEP[method].order, abs=0.15)


@both_ways
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_dopri5_reaches_its_tolerance(tolerance: float, start: float, end: float) -> None:
    """The local error is held below the tolerance a step; 10 steps and amplification by e^|A| make up the 30."""
    assert error(Solver("dopri5", rtol=tolerance, atol=tolerance), start, end) < 30 * tolerance


def test_dopri5_is_as_accurate_for_one_bad_sample_among_many() -> None:
    """A norm over the whole batch would hide it: the error per sample must not grow with the batch."""
    rates = torch.cat([torch.zeros(5000, 1), torch.full((1, 1), 6.0)]).double()
    solver = Solver("dopri5", rtol=1e-6, atol=1e-6)
    got = solver.integrate(lambda x, t: rates * x, torch.ones(5001, 1, dtype=torch.float64), 0.0, 1.0)
    assert got[-1].item() == pytest.approx(math.exp(6.0), rel=2e-5)


@every_method
@both_ways
def test_field_is_evaluated_between_the_ends_only(method: str, start: float, end: float) -> None:
    """Networks know times in [0, 1] alone; an adaptive solver must not step over the end."""
    seen: list[float] = []

    def field(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.cos(40 * t * x)

    Solver(method, steps=7).integrate(field, torch.ones(2, 1, dtype=torch.float64), start, end)
    assert min(seen) > -1e-12
    assert max(seen) < 1 + 1e-12
    assert start in seen


@pytest.mark.parametrize("method", list(FIXED_STEP))
@pytest.mark.parametrize("steps", [1, 3])
def test_evaluations_are_counted_right(method: str, steps: int) -> None:
    count = 0

    def field(x: Tensor, t: float) -> Tensor:
        nonlocal count
        count += 1
        return x

    solver = Solver(method, steps=steps)
    solver.integrate(field, torch.ones(1, 1), 0.0, 1.0)
    assert count == solver.evaluations == FIXED_STEP[method].evaluations * steps


def test_dopri5_has_no_fixed_number_of_evaluations() -> None:
    assert Solver("dopri5").evaluations is None


@every_method
def test_constant_velocity_is_integrated_exactly(method: str) -> None:
    v = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    x = torch.zeros(4, 2, dtype=torch.float64)
    got = Solver(method, steps=3).integrate(lambda x, t: v.expand_as(x), x, 0.0, 1.0)
    torch.testing.assert_close(got, v.expand(4, 2), atol=1e-13, rtol=0)


@every_method
@pytest.mark.parametrize("shape", [(3,), (4, 2), (1, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_carried_through(method: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    got = Solver(method).integrate(lambda x, t: -t * x, x, 0.0, 1.0)
    assert (got.shape, got.dtype) == (x.shape, dtype)


@pytest.mark.parametrize("method", list(FIXED_STEP))
def test_device_is_carried_through(method: str) -> None:
    x = torch.zeros(6, 2, device="meta")
    assert Solver(method).integrate(lambda x, t: x * t, x, 0.0, 1.0).device.type == "meta"


@every_method
def test_samples_do_not_influence_each_other(method: str) -> None:
    """Bit for bit with fixed steps; an adaptive solver shares its steps, so to its tolerance."""
    x = torch.tensor([[0.5], [3.0]], dtype=torch.float64)
    solver = Solver(method, rtol=1e-9, atol=1e-9)
    pair, single = (solver.integrate(lambda x, t: torch.sin(x) * (1 + t), y, 0.0, 1.0) for y in (x, x[:1]))
    torch.testing.assert_close(pair[:1], single, atol=0 if method in FIXED_STEP else 1e-8, rtol=0)


@every_method
def test_gradient_flows_through_the_solver(method: str) -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    solver = Solver(method, steps=50, rtol=1e-8, atol=1e-8)
    end = solver.integrate(lambda x, t: rate * x, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0)
    (gradient,) = torch.autograd.grad(end.sum(), rate)
    assert gradient.item() == pytest.approx(math.exp(0.7), rel=0.02 if method == "euler" else 1e-3)


def test_dopri5_refuses_a_velocity_that_is_not_finite() -> None:
    def field(x: Tensor, t: float) -> Tensor:
        return x * (math.nan if t > 0.5 else 1.0)

    with pytest.raises(LFMError, match=r"non-finite velocity at t = 0.*use rk4"):
        Solver("dopri5").integrate(field, torch.ones(1, 1), 0.0, 1.0)


def test_dopri5_stops_at_its_limit_of_evaluations() -> None:
    solver = Solver("dopri5", rtol=1e-10, atol=1e-10, max_evaluations=30)
    with pytest.raises(LFMError, match=r"sampler\.max_evaluations: 30 evaluations did not reach rtol 1e-10"):
        solver.integrate(lambda x, t: torch.cos(200 * x) * 50, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0)


def test_dopri5_says_when_its_step_vanishes() -> None:
    """dx/dt = x² from 2 blows up at t = 1/2: torchdiffeq's assertion becomes one line of ours."""
    with pytest.raises(LFMError, match=r"sampler\."):
        Solver("dopri5").integrate(lambda x, t: x**2, torch.full((1, 1), 2.0, dtype=torch.float64), 0.0, 1.0)


@pytest.mark.parametrize("setting", [{"method": "rk5"}, {"steps": 0}])
def test_unknown_settings_are_refused_by_name(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(LFMError, match=rf"sampler\.{name}: '?{value}"):
        Solver(**setting)
