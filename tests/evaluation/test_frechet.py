"""Fréchet distances against closed forms, scipy and torch-fidelity; manifolds against their definition in loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lfm_policy.evaluation.frechet import frechet_distance, moments, precision_recall
from lfm_policy.flow import LFMError
from tests.helpers.tensors import normal


def rotation(dim: int, seed: int = 7) -> Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=seed)).Q


def covariance(dim: int, rank: int | None = None, seed: int = 0) -> Tensor:
    factor = normal(dim, rank or dim, seed=seed)
    return factor @ factor.T


def distance_of_covariances(first: Tensor, second: Tensor) -> float:
    zero = first.new_zeros(len(first))
    return frechet_distance(zero, first, zero, second)


def test_gaussians_along_common_axes() -> None:
    """Commuting covariances: the distance of the means and of the standard deviations, axis by axis."""
    axes, means = rotation(4), normal(2, 4)
    deviations = normal(2, 4, seed=1).abs()
    covs = [axes * deviation.square() @ axes.T for deviation in deviations]
    want = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(means[0], covs[0], means[1], covs[1]) == pytest.approx(want.item(), rel=1e-12)


def test_gaussians_in_the_plane() -> None:
    """2 x 2 matrices that do not commute: tr M^(1/2) = (tr M + 2 (det M)^(1/2))^(1/2), by Cayley and Hamilton."""
    first, second = covariance(2, seed=1), covariance(2, seed=2)
    product = first @ second
    assert (product - second @ first).abs().max() > 0.1
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    want = (first.trace() + second.trace()).item() - 2 * root
    assert distance_of_covariances(first, second) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 6, 40])
def test_trace_of_the_root_is_scipys(dim: int) -> None:
    first, second = covariance(dim, seed=1), covariance(dim, seed=2)
    root = scipy.linalg.sqrtm((first @ second).numpy())
    want = (first.trace() + second.trace()).item() - 2 * np.trace(root).real
    assert distance_of_covariances(first, second) == pytest.approx(want, rel=1e-8)


def test_singular_covariances_lose_no_digits() -> None:
    """Of rank 3 in 60 dimensions: what counts are the 3 x 3 products of their factors; roots of zeros add nothing."""
    first, second = normal(60, 3, seed=1), normal(60, 3, seed=2)
    root = torch.linalg.matrix_norm(first.T @ second, "nuc").item()
    want = (first.square().sum() + second.square().sum()).item() - 2 * root
    assert distance_of_covariances(first @ first.T, second @ second.T) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_nothing_is_as_close_as_itself(rank: int) -> None:
    mean, cov = normal(30), covariance(30, rank)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-11 * cov.trace().item())
    moved = mean + 1e-3
    assert frechet_distance(mean, cov, moved, cov) == pytest.approx(30e-6, rel=1e-4)


def test_distance_does_not_see_rotations_nor_order_and_grows_as_the_square() -> None:
    means, covs, turn = normal(2, 5), [covariance(5, seed=1), covariance(5, 2, seed=2)], rotation(5)
    want = frechet_distance(means[0], covs[0], means[1], covs[1])
    turned = [turn @ cov @ turn.T for cov in covs]
    got = [
        frechet_distance(means[1], covs[1], means[0], covs[0]),
        frechet_distance(turn @ means[0] + 1, turned[0], turn @ means[1] + 1, turned[1]),
        frechet_distance(3 * means[0], 9 * covs[0], 3 * means[1], 9 * covs[1]) / 9,
    ]
    assert want > 0.1
    assert got == pytest.approx([want] * 3, rel=1e-10)


def test_distance_of_samples_from_their_image() -> None:
    """x against a x + b: ((a - 1) m + b)² + (a - 1)² tr cov, exactly, since moments move with the samples."""
    x = normal(50, 4) + 2
    mean, cov = moments(x)
    want = (0.5 * mean + 1).square().sum() + 0.25 * cov.trace()
    assert frechet_distance(mean, cov, *moments(1.5 * x + 1)) == pytest.approx(want.item(), rel=1e-11)


@pytest.mark.parametrize("memory", [1, 1000, 10**6])
def test_moments_are_numpys(memory: int) -> None:
    """In any pieces, and for features of float32 far from zero."""
    features = (normal(41, 3) + 1000).float()
    mean, cov = moments(features, memory)
    as_numpy = features.double().numpy()
    np.testing.assert_allclose(mean, as_numpy.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(as_numpy, rowvar=False), rtol=1e-9)


def test_both_measures_are_torch_fidelitys() -> None:
    from torch_fidelity import metric_fid, metric_prc

    real, fake = normal(200, 8), 0.7 * normal(150, 8, seed=1) + 0.4
    statistics = [metric_fid.fid_features_to_statistics(cloud) for cloud in (real, fake)]
    want = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(*moments(real), *moments(fake)) == pytest.approx(want, rel=1e-9)
    for k in (1, 3):
        want = metric_prc.calculate_precision_recall_full(fake, real, neighborhood=k)
        assert 0.05 < min(want) < max(want) < 1
        assert precision_recall(real, fake, k) == pytest.approx(want, abs=1e-6)


def in_manifold(point: Any, cloud: Any, k: int) -> bool:
    """Whether some point of the cloud is at least as close as its own k-th nearest neighbour."""
    for centre in cloud:
        reach = np.sort(np.sqrt(((cloud - centre) ** 2).sum(axis=1)))[k]
        if np.sqrt(((point - centre) ** 2).sum()) <= reach:
            return True
    return False


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("memory", [1, 1000, 10**6])
def test_precision_and_recall_are_their_definition(k: int, memory: int) -> None:
    real, fake = normal(40, 3), 0.6 * normal(55, 3, seed=1) + 0.5
    want = [
        np.mean([in_manifold(point, of.numpy(), k) for point in points.numpy()])
        for points, of in ((fake, real), (real, fake))
    ]
    assert want[0] != want[1]
    assert precision_recall(real, fake, k, memory) == pytest.approx(want)
    assert precision_recall(fake, real, k, memory) == pytest.approx(want[::-1])


def test_precision_and_recall_at_their_limits() -> None:
    near, far = normal(40, 3), normal(60, 3, seed=1) + 100
    assert precision_recall(near, near) == (1, 1)
    assert precision_recall(near, near.flip(0).float().double()) == (1, 1)
    assert precision_recall(near, far) == (0, 0)
    both = torch.cat([near, far])
    assert precision_recall(both, far) == (1, 0.6)  # one mode of two: nothing wrong, and 40 of 100 missing
    assert precision_recall(far, both) == (0.6, 1)


def test_equal_points_are_inside_and_others_are_not() -> None:
    """Balls of radius zero around points far from the origin, where products of matrices round."""
    point = 1e3 * normal(1, 5)
    cloud = point.expand(6, -1)
    other = torch.cat([cloud, cloud + 1])
    assert precision_recall(cloud, cloud) == (1, 1)
    assert precision_recall(cloud, other) == (0.5, 1)
    assert precision_recall(cloud, cloud + 1e-2) == (0, 0)
    for seed in range(6):
        points = 1e3 * normal(5, 64, seed=seed)
        assert precision_recall(points.repeat_interleave(4, dim=0), points.repeat(9, 1)) == (1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: moments(x[:1]), "features: 1 samples are too few; give at least 2"),
        (lambda x: moments(x[0]), r"features: shape \(3,\) is not \(M, D\)"),
        (lambda x: moments(x / 0), "features: has values that are not finite"),
        (lambda x: precision_recall(x[:3], x), "real: 3 samples are too few; give at least 4"),
        (lambda x: precision_recall(x, x[:5], k=5), "fake: 5 samples are too few; give at least 6"),
        (lambda x: precision_recall(x, x[:, :2]), "fake: 2 dimensions against 3 of real"),
        (lambda x: precision_recall(x, x, k=0), "k: 0 must be at least 1"),
        (lambda x: frechet_distance(*moments(x), *moments(x[:, :2])), r"mean_2: shape \(2,\) is not \(3,\)"),
        (lambda x: frechet_distance(x[0], x[:3, :2], x[0], x[:3]), r"cov_1: shape \(3, 2\) is not \(3, 3\)"),
        (lambda x: frechet_distance(x[0], torch.eye(3), x[0], -torch.eye(3)), "cov_2: is no covariance"),
        (lambda x: frechet_distance(x[0], x[:3], x[0], torch.eye(3)), "cov_1: is no covariance"),
        (lambda x: frechet_distance(x[0], torch.eye(3), x[0] / 0, torch.eye(3)), "mean_2: has values that are not"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Any, message: str) -> None:
    with pytest.raises(LFMError, match=message):
        call(normal(9, 3))
