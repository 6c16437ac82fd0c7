"""Distances between two clouds of samples: how far generated samples are from held-out data.

Both are in the units of the samples: standardise both clouds with the same mean and scale before, where dimensions
differ in kind.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lfm_policy.flow import LFMError
from lfm_policy.flow.random import normal

MEMORY = 2**27  # bytes that the largest intermediate tensor may take


def energy_distance(x: Tensor, y: Tensor, unbiased: bool = False, memory: int = MEMORY) -> float:
    """Szekely's energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of clouds x (M, d) and y (K, d).

    By default V-statistics, means over all pairs, a point with itself among them: the distance of the two empirical
    laws, never negative and zero only for equal ones, but above the distance of the laws they were drawn from by
    E|x - x'|/M + E|y - y'|/K on average. With `unbiased`, U-statistics: no such bias, and below zero at times. Not its
    root, as scipy's. Works in pieces of `memory` bytes; sums are float64. Raises LFMError for clouds that do not fit.
    """
    _check(x, y)
    least = 2 if unbiased else 1
    if min(len(x), len(y)) < least:
        raise LFMError(f"unbiased: {min(len(x), len(y))} sample has no other to compare with; give two or more")
    m, k = len(x), len(y)
    # U-statistics leave out the M pairs of a point with itself, which add nothing to the sum
    within_x = _summed_distances(x, x, memory) / (m * (m - 1) if unbiased else m * m)
    within_y = _summed_distances(y, y, memory) / (k * (k - 1) if unbiased else k * k)
    return 2 * _summed_distances(x, y, memory) / (m * k) - within_x - within_y


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    n_projections: int = 500,
    generator: torch.Generator | None = None,
    order: Literal[1, 2] = 2,
    memory: int = MEMORY,
) -> float:
    """Sliced Wasserstein distance of clouds x (M, d) and y (K, d): (mean over directions of W_p^p)^(1/p), p = `order`.

    Directions are uniform on the sphere. On each, W_p of the two projected empirical laws is exact, for any M and K:
    the L^p distance of their quantile functions. Works in pieces of about `memory` bytes, in float64. Raises LFMError
    for clouds that do not fit, no projections or another order.
    """
    _check(x, y)
    if n_projections < 1:
        raise LFMError(f"n_projections: {n_projections} must be at least 1")
    if order not in (1, 2):
        raise LFMError(f"order: {order} is neither 1 nor 2")
    x, y = x.double(), y.double()
    directions = normal((n_projections, x.shape[1]), x, generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    of_x, of_y, width = _common_quantiles(len(x), len(y), x.device)
    total = 0.0
    for some in directions.split(max(1, memory // (8 * len(width)))):
        a, b = ((cloud @ some.T).sort(dim=0).values for cloud in (x, y))
        total += (width @ (a[of_x] - b[of_y]).abs().pow(order)).sum().item()
    return (total / n_projections) ** (1 / order)


def _summed_distances(x: Tensor, y: Tensor, memory: int) -> float:
    """Σ |x_i - y_j| over all pairs."""
    total = 0.0
    for rows in x.double().split(max(1, memory // (8 * len(y)))):
        # the product form |x|² + |y|² - 2 x·y is faster and loses half the digits of small distances
        total += torch.cdist(rows, y.double(), compute_mode="donot_use_mm_for_euclid_dist").sum().item()
    return total


def _common_quantiles(m: int, k: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of [0, 1] on which both empirical quantile functions are constant: indices of their values, and widths.

    Levels are counted in units of 1/(MK), so that equal ones meet exactly. At most M + K - 1 pieces, M if K = M.
    """
    ends = torch.cat([torch.arange(1, m + 1) * k, torch.arange(1, k + 1) * m]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    width = (ends - starts).double() / (m * k)
    return (starts // k).to(device), (starts // m).to(device), width.to(device)


def _check(x: Tensor, y: Tensor) -> None:
    for name, cloud in (("x", x), ("y", y)):
        if cloud.dim() != 2 or len(cloud) == 0:
            raise LFMError(f"{name}: shape {tuple(cloud.shape)} is not (M, d) with M at least 1")
    if x.shape[1] != y.shape[1]:
        raise LFMError(f"y: {y.shape[1]} dimensions against {x.shape[1]} of x")
