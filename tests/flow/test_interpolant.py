"""Every interpolant: its ends, its derivative and what it does to fresh ends."""

from __future__ import annotations

import math

import pytest
import torch

from lfm_policy.flow import INTERPOLANTS, interpolate, ou_angle, ou_moments
from tests.flow.analytic import weights_of_ends

ANGLES = [ou_angle(0.02), ou_angle(0.4), math.pi / 2]
every_interpolant = pytest.mark.parametrize("name", list(INTERPOLANTS))
every_angle = pytest.mark.parametrize("angle", ANGLES)


def _ends(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@every_interpolant
@every_angle
def test_ends_are_hit(name: str, angle: float) -> None:
    left, right = _ends(5, 3, 2)
    at_0, _ = interpolate(name, left, right, torch.zeros(5, dtype=torch.float64), angle)
    at_1, _ = interpolate(name, left, right, torch.ones(5, dtype=torch.float64), angle)
    torch.testing.assert_close(at_0, left, atol=1e-14, rtol=0)
    torch.testing.assert_close(at_1, right, atol=1e-14, rtol=0)


@every_interpolant
@every_angle
def test_derivative_is_autograds(name: str, angle: float) -> None:
    left, right = _ends(50, 3)
    t = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = lambda t: interpolate(name, left, right, t, angle)[0]  # noqa: E731
    _, slope = torch.func.jvp(path, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(interpolate(name, left, right, t, angle)[1], slope, atol=1e-12, rtol=1e-12)


@every_interpolant
@every_angle
def test_coefficients_are_the_closed_forms(name: str, angle: float) -> None:
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    got, want = INTERPOLANTS[name](t, angle), weights_of_ends(name, t, angle)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.02, 0.4, math.inf])
def test_geodesic_of_fresh_ends_turns_data_into_noise(gamma: float) -> None:
    """cos(θt) x_l + sin(θt) z for x_r = cos θ x_l + sin θ z: what keeps the variance of whitened data."""
    left, noise = _ends(40, 3)
    (r, s), angle = ou_moments(gamma), ou_angle(gamma)
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    between, slope = interpolate("geodesic", left, r * left + s * noise, t, angle)
    phi = (angle * t)[:, None]
    torch.testing.assert_close(between, phi.cos() * left + phi.sin() * noise, atol=1e-12, rtol=0)
    torch.testing.assert_close(slope, angle * (phi.cos() * noise - phi.sin() * left), atol=1e-12, rtol=0)


@every_interpolant
@pytest.mark.parametrize("shape", [(6, 2), (6, 4, 3), (6, 1, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_device_are_those_of_the_ends(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for device in ("cpu", "meta"):
        ends = torch.zeros(shape, dtype=dtype, device=device)
        for result in interpolate(name, ends, ends, torch.zeros(6, dtype=dtype, device=device), 1.0):
            assert (result.shape, result.dtype, result.device.type) == (shape, dtype, device)


@every_interpolant
def test_samples_do_not_influence_each_other(name: str) -> None:
    left, right = _ends(4, 3)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    whole = interpolate(name, left, right, t, 1.0)
    single = interpolate(name, left[2:3], right[2:3], t[2:3], 1.0)
    for a, b in zip(whole, single, strict=True):
        assert torch.equal(a[2:3], b)
