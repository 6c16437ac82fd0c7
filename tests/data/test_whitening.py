"""Whitening: covariance I, an exact inverse, and the Jacobian that likelihoods count."""

from __future__ import annotations

import pytest
import torch

from lfm_policy.data.whitening import Whitener
from lfm_policy.flow import LFMError
from lfm_policy.flow import named_generator as generator

MODES = ("whiten", "standard", "none")
MIXING = torch.tensor([[1e5, 0.0, 0.0], [2e-3, 1e-3, 0.0], [0.3, -0.2, 0.1]], dtype=torch.float64)


def table(rows: int = 5000) -> torch.Tensor:
    """Correlated columns in very different units, far from the origin."""
    noise = torch.randn(rows, 3, generator=generator(0, "rows"), dtype=torch.float64)
    return noise.exp() @ MIXING.T + torch.tensor([1e6, -5.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_unnormalize_undoes_normalize(mode: str) -> None:
    x = table()
    whitener = Whitener.fit(x, mode)
    torch.testing.assert_close(whitener.unnormalize(whitener.normalize(x)), x, atol=0, rtol=1e-10)


def test_whitened_rows_have_mean_zero_and_covariance_one() -> None:
    z = Whitener.fit(table(), "whiten").normalize(table())
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_whitened_columns_follow_their_own() -> None:
    """ZCA on correlations: the cross-correlation with the original columns is symmetric, its trace the largest of all
    whitenings': no rotation of the whitened columns raises it (Kessy, Lewin and Strimmer 2018)."""
    x = table()
    z = Whitener.fit(x, "whiten").normalize(x)
    standardised = (x - x.mean(0)) / x.std(0, unbiased=False)
    cross = z.T @ standardised / len(x)
    torch.testing.assert_close(cross, cross.T, atol=1e-9, rtol=0)
    for seed in range(5):
        noise = torch.randn(3, 3, generator=generator(seed, "turn"), dtype=torch.float64)
        rotation = torch.linalg.qr(noise).Q
        assert (rotation @ cross).trace() <= cross.trace() + 1e-12


def test_standard_divides_by_deviations_alone() -> None:
    x = table()
    z = Whitener.fit(x, "standard").normalize(x)
    torch.testing.assert_close(z, (x - x.mean(0)) / x.std(0, unbiased=False), atol=1e-9, rtol=0)
    assert torch.equal(Whitener.fit(x, "none").normalize(x), x)


@pytest.mark.parametrize("mode", MODES)
def test_log_abs_det_is_that_of_the_maps_jacobian(mode: str) -> None:
    x = table()
    whitener = Whitener.fit(x, mode)
    jacobian = torch.autograd.functional.jacobian(lambda y: whitener.normalize(y[None])[0], x[0])
    want = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(whitener.log_abs_det(), want, atol=1e-9, rtol=0)


def test_it_comes_back_from_its_state() -> None:
    whitener, other = Whitener.fit(table(), "whiten"), Whitener(3)
    other.load_state_dict(whitener.state_dict())
    assert torch.equal(other.normalize(table(10)), whitener.normalize(table(10)))
    assert torch.equal(other.unnormalize(table(10)), whitener.unnormalize(table(10)))


def test_a_dependent_column_is_named_and_an_unknown_mode_refused() -> None:
    x = torch.cat([table(100)[:, :2], table(100)[:, :1] * 2 + 1], dim=1)
    with pytest.raises(LFMError, match=r"column (height|double): is a linear combination of others"):
        Whitener.fit(x, "whiten", ["height", "mass", "double"])
    assert Whitener.fit(x, "standard").normalize(x).isfinite().all()
    with pytest.raises(LFMError, match="normalizer: 'pca' is not one of whiten, standard, none"):
        Whitener.fit(x, "pca")
