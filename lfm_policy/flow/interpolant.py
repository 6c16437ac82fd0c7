"""Interpolants I_t between the two ends of a sub-flow, and their time derivatives.

All are linear in the ends, I_t = a(t) x_l + b(t) x_r, and run from x_l at t = 0 to x_r at t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

InterpolantName = Literal["ot", "trigonometric", "geodesic"]


class Coefficients(NamedTuple):
    """a, b and their derivatives in t; each has the shape of t."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor


def optimal_transport(t: Tensor, angle: float) -> Coefficients:
    """Straight line x_l + t (x_r - x_l); the paper's choice for robots. `angle` is not used."""
    one = torch.ones_like(t)
    return Coefficients(1 - t, t, -one, one)


def trigonometric(t: Tensor, angle: float) -> Coefficients:
    """cos(πt/2) x_l + sin(πt/2) x_r; the paper's choice for tables and images. `angle` is not used."""
    half_pi = math.pi / 2
    cos, sin = torch.cos(half_pi * t), torch.sin(half_pi * t)
    return Coefficients(cos, sin, -half_pi * sin, half_pi * cos)


def geodesic(t: Tensor, angle: float) -> Coefficients:
    """Great circle [sin(θ(1-t)) x_l + sin(θt) x_r] / sin θ with θ = `angle`, the ends' angle.

    For x_r = cos θ x_l + sin θ z this is cos(θt) x_l + sin(θt) z, which keeps the variance of
    whitened data, where the trigonometric interpolant of coupled ends swells it.
    """
    sine = math.sin(angle)
    return Coefficients(
        torch.sin(angle * (1 - t)) / sine,
        torch.sin(angle * t) / sine,
        -angle * torch.cos(angle * (1 - t)) / sine,
        angle * torch.cos(angle * t) / sine,
    )


INTERPOLANTS: dict[str, Callable[[Tensor, float], Coefficients]] = {
    "ot": optimal_transport,
    "trigonometric": trigonometric,
    "geodesic": geodesic,
}


def interpolate(
    name: InterpolantName, x_left: Tensor, x_right: Tensor, t: Tensor, angle: float
) -> tuple[Tensor, Tensor]:
    """I_t and dI_t/dt for ends (B, *shape) and t (B,); both results are (B, *shape)."""
    per_sample = t.reshape(-1, *[1] * (x_left.dim() - 1))
    a, b, da, db = INTERPOLANTS[name](per_sample, angle)
    return a * x_left + b * x_right, da * x_left + db * x_right
