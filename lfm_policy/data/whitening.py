"""The affine map that gives a table mean 0 and covariance I; its Jacobian belongs to every likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lfm_policy.flow.errors import LFMError

WhiteningMode = Literal["whiten", "standard", "none"]

# Correlations whose smallest eigenvalue is below this share of the largest are singular to double precision's eye.
SINGULAR = 1e-10


class Whitener(nn.Module):
    """x_n = (x - mean) W of vectors, kept as float64 buffers and so in the saved model.

    `whiten` is ZCA on the correlation matrix, W = D^-1/2 R^-1/2: covariance I, with each whitened column as close as
    can be to its original one (Kessy, Lewin, Strimmer 2018). `standard` only divides by deviations, `none` leaves x.
    The theory asks for whitening: standardised columns can have covariances with eigenvalues up to d, and where one
    reaches 2 the chi-square divergence from N(0, I) is infinite.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("matrix", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("inverse", torch.eye(dim, dtype=torch.float64))

    @classmethod
    def fit(cls, data: Tensor, mode: WhiteningMode = "whiten", columns: Sequence[str] | None = None) -> Whitener:
        """Fit to data (M, d) in float64; `columns` are their names in errors.

        LFMError for an unknown mode, and for columns that are linear combinations of others.
        """
        if mode not in get_args(WhiteningMode):
            raise LFMError(f"normalizer: '{mode}' is not one of {', '.join(get_args(WhiteningMode))}")
        whitener = cls(data.shape[1])
        if mode == "none":
            return whitener
        names = [str(index) for index in range(data.shape[1])] if columns is None else columns
        deviation = data.std(0, unbiased=False)
        for column, value in enumerate(deviation.tolist()):
            if not 1e-150 < value < 1e150:  # whose square is still a number
                raise LFMError(f"column {names[column]}: deviation {value:g} is out of range; give it in other units")
        whitener.mean.copy_(data.mean(0))
        if mode == "standard":
            whitener.matrix.copy_(torch.diag(1 / deviation))
            whitener.inverse.copy_(torch.diag(deviation))
            return whitener
        if len(data) <= data.shape[1]:
            raise LFMError(
                f"{len(data)} rows to learn from for {data.shape[1]} columns are too few to whiten; give more rows, or "
                "fewer columns"
            )
        standardised = (data - whitener.mean) / deviation
        values, vectors = torch.linalg.eigh(standardised.T @ standardised / len(data))
        if values[0] < SINGULAR * values[-1]:
            name = names[int(vectors[:, 0].abs().argmax())]
            raise LFMError(
                f"column {name}: is a linear combination of others, so the table has no density; drop it "
                "(normalizer: standard would accept it and report a meaningless likelihood)"
            )
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        whitener.matrix.copy_(root / deviation[:, None])
        whitener.inverse.copy_((vectors @ torch.diag(values.sqrt()) @ vectors.T) * deviation)
        return whitener

    def normalize(self, x: Tensor) -> Tensor:
        """(B, d) float64 in its own units to (B, d) whitened."""
        return (x - self.mean) @ self.matrix

    def unnormalize(self, x: Tensor) -> Tensor:
        """(B, d) float64 whitened to its own units."""
        return x @ self.inverse + self.mean

    def log_abs_det(self) -> Tensor:
        """log |det W| in nats: what a log-likelihood in whitened units gains in the data's own."""
        return torch.linalg.slogdet(self.matrix).logabsdet
