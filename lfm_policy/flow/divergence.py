"""Divergence of a velocity: the exact trace of its Jacobian, or Hutchinson's estimate of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lfm_policy.flow.random import signs

VelocityAndDivergence = Callable[[Tensor], tuple[Tensor, Tensor]]
MEMORY = 2**27  # bytes that the reverse passes of one piece may take: beyond the caches more is not faster


def exact_divergence(f: Callable[[Tensor], Tensor], chunk_size: int = 64) -> VelocityAndDivergence:
    """x (B, d) -> velocity (B, d) and exact divergence (B, 1).

    One reverse pass per dimension, vectorised `chunk_size` dimensions at a time: memory grows with
    chunk_size, not with d. Samples must not influence each other inside f.
    """

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        velocity, pullback, *_ = torch.func.vjp(f, x)
        basis = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        divergence = torch.zeros_like(x[:, 0])
        first = 0
        for rows in basis.split(chunk_size):
            cotangents = rows[:, None, :].expand(-1, *x.shape)
            jacobian_rows = torch.vmap(lambda c: pullback(c)[0])(cotangents)
            divergence = divergence + jacobian_rows.diagonal(first, 0, 2).sum(1)  # row k of the chunk, column first + k
            first += len(rows)
        return velocity, divergence[:, None]

    return evaluate


def rademacher_probes(x: Tensor, n_probes: int, generator: torch.Generator | None) -> Tensor:
    """Probes (K, B, d) of ±1 for samples x (B, *shape); those of a sample do not depend on how many follow it."""
    batch, dim = x.flatten(1).shape
    return signs((batch, n_probes, dim), x, generator).transpose(0, 1).contiguous()


def hutchinson_divergence(f: Callable[[Tensor], Tensor], probes: Tensor) -> VelocityAndDivergence:
    """x (B, d) -> velocity (B, d) and K unbiased estimates (B, K) from Rademacher `probes` (K, B, d).

    Each is εᵀ J ε, with variance 2 (‖S‖² - Σ S_ii²) where S = (J + Jᵀ)/2; their mean has a K-th of it.
    """

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        velocity, pullback, *_ = torch.func.vjp(f, x)
        products = torch.vmap(lambda probe: pullback(probe)[0])(probes)
        return velocity, (products * probes).sum(-1).T

    return evaluate


def bytes_per_sample(f: Callable[[Tensor], Tensor], x: Tensor, parameters: nn.Module) -> int:
    """Bytes that autograd keeps of one evaluation of f at one sample x (1, ...), the weights not counted.

    A reverse pass handles tensors of these sizes, so that many bytes times samples times vectorised
    rows bounds what it takes.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in parameters.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        f(x.detach().requires_grad_())
    return max(1, sum(kept.values()))
