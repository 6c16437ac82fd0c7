"""Time is a float: it is neither rounded nor cast, and networks are smooth in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lfm_policy.nets.embedding import TimeEmbedding
from lfm_policy.nets.mlp import MLP, between_knots
from tests.nets.variants import NETWORKS, Variant

every_network = pytest.mark.parametrize("variant", NETWORKS.values(), ids=NETWORKS)
SMOOTH = {name: variant for name, variant in NETWORKS.items() if "relu" not in name}


def at(variant: Variant, times: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Outputs of a network for one x and cond at many times (T,): (T, ...)."""
    x, _, cond = variant.inputs(1, dtype)
    network = variant.build().to(dtype)
    many = len(times)
    return network(x.expand(many, *x.shape[1:]), times.to(dtype), None if cond is None else cond.expand(many, -1))


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearby_times_are_told_apart(variant: Variant, dtype: torch.dtype) -> None:
    """A network that rounds time to thousandths, or to whole steps, gives equal outputs."""
    a, b = at(variant, torch.tensor([0.5, 0.5004], dtype=dtype), dtype)
    assert (a - b).abs().max() > 1e-6


@every_network
def test_derivative_in_time_is_finite_and_autograds(variant: Variant) -> None:
    """Central differences at 1e-6 agree with autograd: no step hides between the readings of a clock."""
    t = torch.linspace(0.01, 0.99, 23, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(at(variant, t).sum(), t)
    h = 1e-6
    with torch.no_grad():
        difference = (at(variant, t + h) - at(variant, t - h)).flatten(1).sum(1) / (2 * h)
    assert slope.isfinite().all()
    assert slope.abs().max() > 1e-3
    torch.testing.assert_close(slope, difference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", SMOOTH.values(), ids=SMOOTH)
def test_networks_are_smooth_in_time(variant: Variant) -> None:
    """Halving h quarters the second differences at the same 2,001 readings: they are h² times a bounded derivative."""
    centres, worst = torch.linspace(1e-3, 1 - 1e-3, 2001, dtype=torch.float64), []
    for h in (5e-4, 2.5e-4):
        with torch.no_grad():
            before, here, after = (at(variant, centres + shift).flatten(1) for shift in (-h, 0.0, h))
        worst.append((after - 2 * here + before).abs().max().item())
    assert worst[1] == pytest.approx(worst[0] / 4, rel=0.02)


@pytest.mark.parametrize("dim", [4, 16, 256])
def test_embedding_is_sines_and_cosines_of_geometric_frequencies(dim: int) -> None:
    t = torch.tensor([0.0, 0.123456, 0.5, 1.0], dtype=torch.float64)
    half = dim // 2
    frequencies = [100.0 * 10_000.0 ** (-k / (half - 1)) for k in range(half)]
    want = [[math.sin(f * s) for f in frequencies] + [math.cos(f * s) for f in frequencies] for s in t.tolist()]
    got = TimeEmbedding(dim)(t)  # frequencies are kept in float32: 1e-7 of an angle of up to 100
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), atol=2e-5, rtol=0)


def test_embedding_separates_all_times_of_a_fine_clock() -> None:
    """Over 1,001 readings the nearest two embeddings are neighbours, none alike."""
    e = TimeEmbedding(32)(torch.linspace(0, 1, 1001, dtype=torch.float64))
    distance = torch.cdist(e, e) + 10 * torch.eye(1001)
    assert distance.min() > 1e-2
    nearest = distance.argmin(1)
    assert ((nearest - torch.arange(1001)).abs() == 1).all()


@pytest.mark.parametrize("knots", [(0.0, 1.0), (0.2, 0.21), (0.0, 0.02, 0.06, 0.2, 1.0)])
def test_readings_between_knots_are_those_of_numpys_interpolation(knots: tuple[float, ...]) -> None:
    """Knots at equal distances in [-1, 1], straight lines between them, and the knots themselves exactly there."""
    t = torch.cat([torch.linspace(knots[0], knots[-1], 101, dtype=torch.float64), torch.tensor(knots).double()])
    want = np.interp(t.numpy(), knots, np.linspace(-1, 1, len(knots)))
    got = between_knots(t, torch.tensor(knots, dtype=torch.float64))
    torch.testing.assert_close(got, torch.from_numpy(want), atol=1e-12, rtol=0)
    assert between_knots(t.float(), torch.tensor(knots)).dtype == torch.float32
    if len(knots) == 2:  # the network's own short cut
        scale, shift = MLP(1, knots=knots)._line or (0.0, 0.0)
        torch.testing.assert_close(t * scale + shift, torch.from_numpy(want), atol=1e-9, rtol=0)
