"""Divergence of a velocity: the exact trace of its Jacobian, or Hutchinson's estimate of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

VelocityAndDivergence = Callable[[Tensor], tuple[Tensor, Tensor]]


def exact_divergence(f: Callable[[Tensor], Tensor], chunk_size: int = 64) -> VelocityAndDivergence:
    """x (B, d) -> velocity (B, d) and exact divergence (B,).

    One reverse pass per dimension, vectorised `chunk_size` dimensions at a time: memory grows with
    chunk_size, not with d. Samples must not influence each other inside f.
    """

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        velocity, pullback, *_ = torch.func.vjp(f, x)
        basis = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        divergence = torch.zeros_like(x[:, 0])
        for rows in basis.split(chunk_size):
            cotangents = rows[:, None, :].expand(-1, *x.shape)
            jacobian_rows = torch.vmap(lambda c: pullback(c)[0])(cotangents)
            divergence = divergence + torch.einsum("kbd,kd->b", jacobian_rows, rows)
        return velocity, divergence

    return evaluate


def hutchinson_divergence(f: Callable[[Tensor], Tensor], probes: Tensor) -> VelocityAndDivergence:
    """x (B, d) -> velocity (B, d) and an unbiased estimate (B,) from Rademacher `probes` (K, B, d).

    The mean of K estimates εᵀ J ε; their variance is 2 (‖S‖² - Σ S_ii²) / K with S = (J + Jᵀ)/2.
    """

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        velocity, pullback, *_ = torch.func.vjp(f, x)
        products = torch.vmap(lambda probe: pullback(probe)[0])(probes)
        return velocity, (products * probes).sum(-1).mean(0)

    return evaluate
