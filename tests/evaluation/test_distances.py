"""Distances of clouds against closed forms, scipy in one dimension, and sums written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lfm_policy.evaluation.distances import energy_distance, sliced_wasserstein
from lfm_policy.flow import LFMError
from lfm_policy.flow import named_generator as generator
from tests.helpers.tensors import normal

every_order = pytest.mark.parametrize("order", [1, 2])


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def mean_absolute(mean: float, std: float) -> float:
    """E|u| of u ~ N(mean, std²)."""
    folded = std * math.sqrt(2 / math.pi) * math.exp(-0.5 * (mean / std) ** 2)
    return folded + mean * math.erf(mean / (std * math.sqrt(2)))


def mean_norm(std: float, dim: int) -> float:
    """E|u| of u ~ N(0, std² I)."""
    return std * math.sqrt(2) * math.gamma((dim + 1) / 2) / math.gamma(dim / 2)


@pytest.mark.parametrize("unbiased", [True, False])
def test_energy_distance_of_gaussians_in_one_dimension(unbiased: bool) -> None:
    """N(0, 1) and N(0.8, 0.5²), within 4 standard errors of 100 draws; V-statistics with the bias their text states."""
    within = [2 * scale / math.sqrt(math.pi) for scale in (1.0, 0.5)]
    want = 2 * mean_absolute(0.8, math.hypot(1.0, 0.5)) - sum(within)
    want += 0.0 if unbiased else within[0] / 60 + within[1] / 90
    draws = [
        energy_distance(normal(60, 1, seed=k), 0.8 + 0.5 * normal(90, 1, seed=-k), unbiased) for k in range(1, 101)
    ]
    mean, error = mean_and_error(draws)
    assert abs(mean - want) < 4 * error
    assert error < 0.02


def test_energy_distance_of_gaussians_in_three_dimensions() -> None:
    """N(0, I) and N(0, 4 I): differences are N(0, 5 I), N(0, 2 I) and N(0, 8 I)."""
    want = 2 * mean_norm(math.sqrt(5), 3) - mean_norm(math.sqrt(2), 3) - mean_norm(math.sqrt(8), 3)
    draws = [energy_distance(normal(100, 3, seed=k), 2 * normal(100, 3, seed=-k), True) for k in range(1, 101)]
    mean, error = mean_and_error(draws)
    assert abs(mean - want) < 4 * error
    assert error < 0.1 * want


def test_unbiased_energy_distance_of_equal_laws_is_zero_on_average() -> None:
    draws = [energy_distance(normal(50, 2, seed=k), normal(70, 2, seed=-k), True) for k in range(1, 101)]
    mean, error = mean_and_error(draws)
    assert abs(mean) < 4 * error
    assert min(draws) < 0 < max(draws)


def test_energy_distance_is_the_sums_written_out() -> None:
    x, y = normal(9, 3), normal(7, 3, seed=1) + 0.3

    def total(a: Tensor, b: Tensor) -> float:
        return (a[:, None] - b[None]).norm(dim=-1).sum().item()

    v = 2 * total(x, y) / 63 - total(x, x) / 81 - total(y, y) / 49
    u = 2 * total(x, y) / 63 - total(x, x) / 72 - total(y, y) / 42
    assert energy_distance(x, y) == pytest.approx(v, abs=1e-14)
    assert energy_distance(x, y, unbiased=True) == pytest.approx(u, abs=1e-14)


@pytest.mark.parametrize("sizes", [(40, 40), (40, 30), (1, 7), (13, 12)])
def test_one_dimension_is_scipys(sizes: tuple[int, int]) -> None:
    """Sizes may differ: quantile functions are compared exactly. scipy's energy distance is the root."""
    x, y = normal(sizes[0], 1), 1.5 * normal(sizes[1], 1, seed=1) + 0.2
    want = stats.energy_distance(x[:, 0], y[:, 0])
    assert math.sqrt(energy_distance(x, y)) == pytest.approx(want, rel=1e-10)
    want = stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert sliced_wasserstein(x, y, 3, generator(0, "slices"), order=1) == pytest.approx(want, rel=1e-10)


@every_order
@pytest.mark.parametrize(("shift", "scale"), [(0.7, 1.0), (0.0, 1.6), (-0.4, 0.5)])
def test_wasserstein_of_gaussians_in_one_dimension(order: Any, shift: float, scale: float) -> None:
    """Between N(0, 1) and N(m, s²), W_p^p = E|m + (s - 1) u|^p: exact for an image of the cloud, else to its error."""
    x, y = normal(20_000, 1), shift + scale * normal(20_000, 1, seed=1)
    image = (shift + (scale - 1) * x).abs().pow(order).mean().item() ** (1 / order)
    got = sliced_wasserstein(x, shift + scale * x, 2, generator(0, "slices"), order)
    assert got == pytest.approx(image, rel=1e-10)
    if order == 2:
        want = math.hypot(shift, scale - 1)
    else:
        want = mean_absolute(shift, abs(scale - 1)) if scale != 1 else abs(shift)
    # W of independent clouds errs by no more than W of each cloud to its law, about 1/sqrt(M)
    error = (1 + scale) * 2 / math.sqrt(20_000)
    assert sliced_wasserstein(x, y, 2, generator(0, "slices"), order) == pytest.approx(want, abs=error)


@every_order
@pytest.mark.parametrize("dim", [2, 5])
def test_shifted_cloud_is_as_far_as_the_shift_seen_from_all_directions(order: Any, dim: int) -> None:
    """W_p = |<shift, θ>| on each direction. Over the sphere its square averages to |shift|²/d; 4 standard errors."""
    x, shift, count = normal(30, dim), normal(dim, seed=1), 20_000
    got = sliced_wasserstein(x, x + shift, count, generator(0, "slices"), order)
    length = shift.norm().item()
    first = length * math.gamma(dim / 2) / math.gamma((dim + 1) / 2) / math.sqrt(math.pi)
    second = length**2 / dim
    fourth = 3 * length**4 / (dim * (dim + 2))
    if order == 1:
        assert abs(got - first) < 4 * math.sqrt((second - first**2) / count)
    else:
        assert abs(got**2 - second) < 4 * math.sqrt((fourth - second**2) / count)


def test_sliced_wasserstein_of_gaussians() -> None:
    """N(0, I) and N(0, 4 I): every projection is N(0, 1) against N(0, 4), whatever the direction."""
    x, y = normal(20_000, 4), 2 * normal(20_000, 4, seed=1)
    assert sliced_wasserstein(x, y, 20, generator(0, "slices"), 2) == pytest.approx(1, abs=0.02)
    assert sliced_wasserstein(x, y, 20, generator(0, "slices"), 1) == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)


def all_distances(x: Tensor, y: Tensor) -> list[float]:
    slices = [sliced_wasserstein(x, y, 50, generator(0, "slices"), order) for order in (1, 2)]
    return [energy_distance(x, y), *slices]


def test_equal_sets_are_at_zero_and_nothing_else_is() -> None:
    """In any order, and repeated: a cloud taken twice is the same empirical law."""
    x = normal(101, 3)
    for same in (x, x.flip(0), torch.cat([x, x])):
        assert max(map(abs, all_distances(x, same))) < 1e-12
        assert max(map(abs, all_distances(x.float(), same.float()))) < 1e-12
    moved = x.clone()
    moved[0] += 0.1
    assert min(all_distances(x, moved)) > 1e-6


def test_distances_are_symmetric_and_move_with_the_clouds() -> None:
    """Both clouds shifted: the same; both scaled: Wasserstein and energy distance scale alike. Turned: energy only."""
    x, y = normal(40, 3), 0.5 * normal(30, 3, seed=1)
    want = all_distances(x, y)
    assert min(want) > 0.05
    assert all_distances(y, x) == pytest.approx(want, rel=1e-10)
    assert all_distances(x + 2.0, y + 2.0) == pytest.approx(want, rel=1e-10)
    assert all_distances(3 * x, 3 * y) == pytest.approx([3 * value for value in want], rel=1e-10)
    turn = torch.linalg.qr(normal(3, 3, seed=2)).Q
    assert energy_distance(x @ turn, y @ turn) == pytest.approx(want[0], rel=1e-10)


@pytest.mark.parametrize("memory", [1, 1000, 100_000])
def test_memory_bounds_the_pieces_and_not_the_result(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(50, 3), normal(70, 3, seed=1)
    want = energy_distance(x, y), sliced_wasserstein(x, y, 40, generator(0, "slices"))
    sizes, cdist = [], torch.cdist

    def noting(a: Tensor, b: Tensor, **options: Any) -> Tensor:
        sizes.append(8 * len(a) * len(b))
        return cdist(a, b, **options)

    monkeypatch.setattr(torch, "cdist", noting)
    assert energy_distance(x, y, memory=memory) == pytest.approx(want[0], rel=1e-12)
    assert max(sizes) <= max(memory, 8 * 70)  # one row at least
    got = sliced_wasserstein(x, y, 40, generator(0, "slices"), memory=memory)
    assert got == pytest.approx(want[1], rel=1e-12)


def test_close_points_far_from_the_origin_keep_their_distance() -> None:
    """|x|² + |y|² - 2 x·y would lose it: float64 there resolves no less than sqrt(1e-16 · 1e8) = 1e-4."""
    x = 1e4 + normal(40, 2)
    assert energy_distance(x, x + 1e-5) == pytest.approx(energy_distance(x - 1e4, x - 1e4 + 1e-5), rel=1e-2)


def test_clouds_that_do_not_fit_are_refused() -> None:
    x = normal(4, 2)
    for distance in (energy_distance, sliced_wasserstein):
        with pytest.raises(LFMError, match="y: 3 dimensions against 2 of x"):
            distance(x, normal(4, 3))
        with pytest.raises(LFMError, match=r"y: shape \(0, 2\) is not"):
            distance(x, x[:0])
        with pytest.raises(LFMError, match=r"x: shape \(4,\) is not"):
            distance(x[:, 0], x)
    with pytest.raises(LFMError, match="give two or more"):
        energy_distance(x[:1], x, unbiased=True)
    with pytest.raises(LFMError, match="order: 3 is neither 1 nor 2"):
        sliced_wasserstein(x, x, order=3)  # type: ignore[arg-type]
    with pytest.raises(LFMError, match="n_projections: 0"):
        sliced_wasserstein(x, x, 0)
