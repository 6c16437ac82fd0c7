"""Divergences: the exact one is the Jacobian's trace, Hutchinson's is unbiased with the stated variance."""

from __future__ import annotations

import math

import pytest
import torch

from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.divergence import exact_divergence, hutchinson_divergence
from lfm_policy.flow.random import signs
from tests.nets.variants import NETWORKS, Variant

every_network = pytest.mark.parametrize("variant", NETWORKS.values(), ids=NETWORKS)


def flat_field(variant: Variant) -> tuple:
    """A network as a function of flat x (B, d), with such an x; three samples."""
    network = variant.build().double()
    x, t, cond = variant.inputs(3, torch.float64)
    return (lambda flat: network(flat.reshape(x.shape), t, cond).flatten(1)), x.flatten(1)


def jacobians(variant: Variant) -> torch.Tensor:
    """Full Jacobian (B, d, d) of each sample."""
    f, x = flat_field(variant)
    whole = torch.autograd.functional.jacobian(f, x)
    return torch.stack([whole[b, :, b] for b in range(len(x))])


@every_network
def test_exact_divergence_is_the_trace_of_the_full_jacobian(variant: Variant) -> None:
    f, x = flat_field(variant)
    velocity, divergence = exact_divergence(f)(x)
    torch.testing.assert_close(velocity, f(x), atol=1e-12, rtol=0)
    trace = jacobians(variant).diagonal(dim1=1, dim2=2).sum(1)
    assert trace.abs().min() > 1e-3  # zero would prove nothing
    torch.testing.assert_close(divergence[:, 0], trace, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 64])
def test_chunk_size_does_not_matter(chunk_size: int) -> None:
    f, x = flat_field(NETWORKS["UNet1d, 2 levels, cond"])
    want = exact_divergence(f, chunk_size=x.shape[1])(x)
    for got, wanted in zip(exact_divergence(f, chunk_size)(x), want, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)


@every_network
def test_hutchinson_is_unbiased_with_the_stated_variance(variant: Variant) -> None:
    """Mean within 4.5 standard errors; variance 2 (‖S‖² - Σ S_ii²) within 5 of its own, from the fourth moment."""
    count = 1000
    f, x = flat_field(variant)
    probes = signs((count, *x.shape), x, generator(0, "probes"))
    J = jacobians(variant)
    S = (J + J.mT) / 2
    trace, diagonal = S.diagonal(dim1=1, dim2=2).sum(1), S.diagonal(dim1=1, dim2=2)
    variance = 2 * (S.pow(2).sum((1, 2)) - diagonal.pow(2).sum(1))
    _, estimates = hutchinson_divergence(f, probes)(x)
    assert ((estimates.mean(1) - trace).abs() < 4.5 * (variance / count).sqrt()).all()
    each = torch.einsum("kbi,bij,kbj->kb", probes, J, probes)
    torch.testing.assert_close(estimates, each.T, atol=1e-10, rtol=0)  # εᵀ J ε, one column a probe
    squares = (each - trace).pow(2)
    assert ((squares.mean(0) - variance).abs() < 5 * squares.std(0) / math.sqrt(count)).all()


def test_signs_are_plus_and_minus_one_in_equal_parts() -> None:
    like = torch.zeros(1, dtype=torch.float32)
    drawn = signs((4, 1000, 25), like, generator(0, "signs"))
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 4 / math.sqrt(100_000)
