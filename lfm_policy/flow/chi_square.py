"""χ² divergence from the noise N(0, I) in closed form, of Gaussians and their mixtures, along the OU process too.

Why it falls: p/q expands in Hermite polynomials, and OU time t multiplies those of degree k by e^(-kt). So
χ²_t = Σ_(k≥1) e^(-2kt) a_k² with a_k ≥ 0 from the moments up to degree k: Prop. 4.1's e^(-2t) holds for every law,
and laws whose first moments are those of the noise are faster. Everything is computed in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.schedule import ou_moments

NEGATIVE = 1e-6  # how far below zero float32's rounding may carry an eigenvalue of a covariance
ROUNDING = 1e-13  # eigenvalues of S closer than this to 0 or 2 cannot be told from them


def ou_marginal(means: Tensor, covariances: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """Means e^-t m (..., d) and covariances e^-2t S + (1 - e^-2t) I (..., d, d) after OU time t (Eq. 6).

    The OU marginal of a Gaussian is that Gaussian; of a mixture, the mixture of these with the same weights.
    """
    shrink, spread = ou_moments(time)
    return shrink * means, shrink**2 * covariances + spread**2 * _identity(covariances)


def gaussian_chi_square(mean: Tensor, covariance: Tensor, time: float = 0.0) -> float:
    """χ²(p_t ‖ N(0, I)) of the OU marginal p_t at OU time t of N(m, S), m (d,) and S (d, d).

    inf where 2I - S_t is not positive definite or S_t is singular (and where it exceeds float64: see
    `gaussian_renyi`). LFMError for t < 0 or an S with a negative eigenvalue.
    """
    return _expm1(gaussian_renyi(mean, covariance, time))


def gaussian_renyi(mean: Tensor, covariance: Tensor, time: float = 0.0) -> float:
    """log(1 + χ²) in nats of `gaussian_chi_square`, Rényi's divergence of order 2: finite wherever χ² converges.

    With eigenvalues 1 + ε_i of S: Σ m_i² e^-2t / (1 - ε_i e^-2t) - ½ Σ log(1 - ε_i² e^-4t).
    """
    excess, basis = _excess(covariance)
    excess = math.exp(-2.0 * _checked(time)) * excess
    if not excess.abs().max() < 1 - ROUNDING:
        return math.inf
    mean = math.exp(-time) * (mean.double() @ basis)
    return float((mean**2 / (1 - excess)).sum() - 0.5 * torch.log1p(-(excess**2)).sum())


def mixture_chi_square(weights: Tensor, means: Tensor, covariances: Tensor, time: float = 0.0) -> float:
    """χ²(p_t ‖ N(0, I)) of the OU marginal p_t of Σ w_i N(m_i, S_i): weights (K,), means (K, d), covariances (K, d, d).

    inf where the Gaussian of some component of positive weight has it (pairs of components whose own χ² are
    finite are finite by Cauchy and Schwarz). LFMError as there, and for weights that are no probabilities.
    """
    # Σ w_i w_j (e^L_ij - 1) rather than Σ w_i w_j e^L_ij - 1: the small figures of late times keep their digits
    pairs, probability = _pairs(weights, means, covariances, time)
    return float((probability * torch.expm1(pairs)).sum())


def mixture_renyi(weights: Tensor, means: Tensor, covariances: Tensor, time: float = 0.0) -> float:
    """log(1 + χ²) in nats of `mixture_chi_square`: finite wherever χ² converges, however large."""
    pairs, probability = _pairs(weights, means, covariances, time)
    return float((pairs + probability.log()).flatten().logsumexp(0))


def chi_square_bound(chi_square: float, time: float, matched_moments: int = 0) -> float:
    """Bound e^(-2(k+1)t) χ²_0 on the χ² of any law after OU time t, if its moments of degree 1 … k are the noise's.

    k = 0 is Prop. 4.1 without matching error: e^-2γ for every step, for every law. k = 1, mean 0, gives
    e^-4t; k = 2, mean 0 and covariance I (whitened), gives e^-6t. inf if χ²_0 is.
    """
    return (
        chi_square if math.isinf(chi_square) else chi_square * math.exp(-2.0 * (matched_moments + 1) * _checked(time))
    )


def chi_square_from_moments(mean: Tensor, covariance: Tensor, time: float) -> float:
    """|m|² e^-2t + ½ ‖S + m mᵀ - I‖² e^-4t: what mean (d,) and covariance (d, d) alone make of χ² at OU time t.

    The terms of degree 1 and 2: no law with these moments has less, and late (t → ∞) none has more. Its
    rate is e^-2t if and only if the mean is not zero.
    """
    mean, covariance, rate = mean.double(), covariance.double(), math.exp(-2.0 * _checked(time))
    excess = covariance + torch.outer(mean, mean) - _identity(covariance)
    return float(rate * mean.dot(mean) + 0.5 * rate**2 * (excess**2).sum())


def _pairs(weights: Tensor, means: Tensor, covariances: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """L_ij = log ∫ N_i N_j / q (K, K) of the diffused components of positive weight, and their w_i w_j (K, K).

    Without inverses of S: with E = S - I and y_ij = (I - E_i E_j)⁻¹ (m_i + E_i m_j),
    L_ij = ½ (m_j·y_ij + m_i·y_ji) - ½ log |I - E_i E_j|. OU time only shrinks m by e^-t and E by e^-2t.
    """
    _check_probabilities(weights)
    used = weights > 0
    probability = torch.outer(weights[used].double(), weights[used].double())
    eigenvalues, basis = _excess(covariances[used])
    eigenvalues = math.exp(-2.0 * _checked(time)) * eigenvalues
    if not eigenvalues.abs().max() < 1 - ROUNDING:
        return torch.full_like(probability, math.inf), probability
    m = math.exp(-time) * means[used].double()
    excess = basis @ (eigenvalues[..., None] * basis.mT)
    turned = excess[:, None] @ excess[None]  # (K, K, d, d): E_i E_j
    moved = m[:, None] + (excess[:, None] @ m[None, :, :, None])[..., 0]  # m_i + E_i m_j
    matrix = _identity(turned) - turned
    products = (torch.linalg.solve(matrix, moved) * m[None]).sum(-1)  # m_j·y_ij
    return 0.5 * (products + products.T - torch.linalg.slogdet(matrix).logabsdet), probability


def _excess(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., d) and eigenvectors (..., d, d) of S - I."""
    covariance = covariance.double()
    eigenvalues, basis = torch.linalg.eigh(covariance - _identity(covariance))
    if eigenvalues.min() < -1 - NEGATIVE:
        raise LFMError(f"covariance: has the eigenvalue {1 + eigenvalues.min().item():g}; none may be negative")
    return eigenvalues, basis


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _checked(time: float) -> float:
    if not time >= 0:
        raise LFMError(f"time: {time} must not be negative")
    return time


def _check_probabilities(weights: Tensor) -> None:
    if not (weights.min() >= 0 and abs(weights.double().sum().item() - 1) < 1e-6):
        raise LFMError(f"weights: {weights.tolist()} must be probabilities that sum to 1")


def _expm1(value: float) -> float:
    try:
        return math.expm1(value)
    except OverflowError:
        return math.inf
