"""Distances of two sets of images by what a feature network sees in them: Fréchet distance, precision and recall."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lfm_policy.evaluation.distances import MEMORY
from lfm_policy.flow import LFMError

ROUNDING = 1e-12  # of the largest squared norm: what products in float64 leave of the distance of equal points


class PrecisionRecall(NamedTuple):
    """Shares of generated samples among the real ones (precision), and of real ones among the generated (recall)."""

    precision: float
    recall: float


def moments(features: Tensor, memory: int = MEMORY) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (M, D), in float64.

    Works in pieces of about `memory` bytes. Raises LFMError for fewer than two samples and for values that are not
    finite.
    """
    _check_features("features", features, 2)
    pieces = features.split(max(1, memory // (8 * features.shape[1])))
    mean = torch.stack([piece.double().sum(dim=0) for piece in pieces]).sum(dim=0) / len(features)
    cov = mean.new_zeros(len(mean), len(mean))
    for piece in pieces:
        centred = piece.double() - mean
        cov += centred.T @ centred
    return mean, cov / (len(features) - 1)


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Fréchet distance of N(mean_1, cov_1) and N(mean_2, cov_2), squared as in FID (Heusel et al. 2017).

    |mean_1 - mean_2|² + tr cov_1 + tr cov_2 - 2 tr (cov_1 cov_2)^(1/2), for means (D,) and covariances (D, D), in
    float64. With moments of M samples it lies above the distance of their laws, by about 1/M: numbers compare at equal
    M only. Raises LFMError for shapes that do not fit and for matrices that are no covariances.
    """
    mean_1, cov_1, mean_2, cov_2 = (tensor.double() for tensor in (mean_1, cov_1, mean_2, cov_2))
    dim = mean_1.numel()
    for name, tensor, shape in (
        ("mean_1", mean_1, (dim,)),
        ("cov_1", cov_1, (dim, dim)),
        ("mean_2", mean_2, (dim,)),
        ("cov_2", cov_2, (dim, dim)),
    ):
        if tensor.shape != shape:
            raise LFMError(f"{name}: shape {tuple(tensor.shape)} is not {shape}, that of {dim} dimensions")
        if not tensor.isfinite().all():
            raise LFMError(f"{name}: has values that are not finite")
    # tr (AB)^(1/2) sums the roots of the eigenvalues of A^(1/2) B A^(1/2), which are the singular values of
    # A^(1/2) B^(1/2): taken from there, those that are zero stay zero instead of the root of a rounding error
    product = _square_root("cov_1", cov_1) @ _square_root("cov_2", cov_2)
    of_means = (mean_1 - mean_2).square().sum()
    of_covs = cov_1.trace() + cov_2.trace() - 2 * torch.linalg.svdvals(product).sum()
    return max(0.0, (of_means + of_covs).item())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, memory: int = MEMORY) -> PrecisionRecall:
    """Precision and recall of samples `fake` (K, D) for `real` (M, D) by Kynkäänniemi et al. 2019 (arXiv 1904.06991).

    A set's manifold is the union of balls around its points, each reaching to its point's k-th nearest neighbour.
    Precision is the share of `fake` within that of `real`, recall the reverse; both depend on M and K, which should be
    equal. Works in float64, in pieces of about `memory` bytes. Raises LFMError for sets that do not fit or have no
    more than k points.
    """
    if k < 1:
        raise LFMError(f"k: {k} must be at least 1")
    _check_features("real", real, k + 1)
    _check_features("fake", fake, k + 1)
    if real.shape[1] != fake.shape[1]:
        raise LFMError(f"fake: {fake.shape[1]} dimensions against {real.shape[1]} of real")
    centre = real.double().mean(dim=0)  # products of small numbers lose less
    real, fake = real.double() - centre, fake.double() - centre
    slack = ROUNDING * max(cloud.square().sum(dim=1).max().item() for cloud in (real, fake))
    reach_real, reach_fake = (_squared_reach(cloud, k, memory) + slack for cloud in (real, fake))
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    rows = _rows(real, memory)
    for some, reach in zip(fake.split(rows), reach_fake.split(rows), strict=True):
        squared = _squared_distances(some, real)
        inside += int((squared <= reach_real).any(dim=1).sum())
        covered |= (squared <= reach[:, None]).any(dim=0)
    return PrecisionRecall(inside / len(fake), covered.double().mean().item())


def _squared_reach(cloud: Tensor, k: int, memory: int) -> Tensor:
    """Squared distance (M,) of each point to its k-th nearest neighbour; the nearest of k + 1 is the point itself."""
    pieces = cloud.split(_rows(cloud, memory))
    nearest = [_squared_distances(some, cloud).topk(k + 1, dim=1, largest=False).values for some in pieces]
    return torch.cat(nearest)[:, -1]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|² as (M, K), by products of matrices: for features of networks ten times as fast as differences."""
    return (x @ y.T).mul_(-2).add_(x.square().sum(dim=1)[:, None]).add_(y.square().sum(dim=1))


def _rows(columns: Tensor, memory: int) -> int:
    return max(1, memory // (8 * len(columns)))


def _square_root(name: str, cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-6 * values.abs().max() or not torch.allclose(cov, cov.T, rtol=1e-6):
        raise LFMError(f"{name}: is no covariance (not symmetric, or with an eigenvalue of {values[0].item():.3g})")
    # what eigh leaves of zeros would count with its root, a hundred million times as large
    smallest = len(cov) * torch.finfo(cov.dtype).eps * values[-1]
    return vectors * torch.where(values > smallest, values, 0).sqrt() @ vectors.T


def _check_features(name: str, features: Tensor, least: int) -> None:
    if features.dim() != 2:
        raise LFMError(f"{name}: shape {tuple(features.shape)} is not (M, D)")
    if len(features) < least:
        raise LFMError(f"{name}: {len(features)} samples are too few; give at least {least}")
    if not features.isfinite().all():
        raise LFMError(f"{name}: has values that are not finite")
