"""Sinusoidal features of a float time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sines and cosines of t (B,) in [0, 1] at `dim`/2 frequencies; (B, dim).

    t is a float and is scaled by `scale` before the sinusoid, never rounded: angular frequencies run
    geometrically from `scale` down to `scale`/10000.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 100.0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"network.embedding_dim: {dim} must be even and at least 4")
        exponents = torch.arange(dim // 2) / (dim // 2 - 1)
        self.register_buffer("frequencies", scale * torch.exp(-math.log(1e4) * exponents), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) -> (B, dim)."""
        angles = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
