"""A fully connected velocity field for vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class MLP(nn.Module):
    """Velocity v(x, t, cond) of vectors x (B, dim) by hidden layers on [x, t, cond].

    The paper's network for 2-D and tabular data: time enters once, as a number, at the input (Table A.1). It is the
    clock's reading between `knots`, which are taken to equal distances in [-1, 1]: a network that serves one short
    stretch, or a chain of stretches of very different lengths, could hardly tell its times apart otherwise. With
    `n_frequencies`, sines and cosines of every coordinate at that many octaves of frequency, beginning with a period
    of 8, stand beside it: what structure much finer than the data's extent needs.
    """

    frequencies: Tensor
    knots: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 3,
        activation: str = "silu",
        cond_dim: int = 0,
        n_frequencies: int = 0,
        knots: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"network.activation: '{activation}' is not one of {', '.join(ACTIVATIONS)}")
        if n_frequencies < 0:
            raise ValueError(f"network.n_frequencies: {n_frequencies} must not be negative")
        if len(knots) < 2 or any(b <= a for a, b in itertools.pairwise(knots)):
            raise ValueError(f"network.knots: {list(knots)} must increase")
        octaves = math.pi / 4 * 2.0 ** torch.arange(n_frequencies)
        self.register_buffer("frequencies", octaves, persistent=False)
        self.register_buffer("knots", torch.tensor(knots), persistent=False)
        (start, *_, end), two = knots, len(knots) == 2
        # two knots are one straight line: looking them up takes as long as a small layer does
        self._line = (2 / (end - start), -(end + start) / (end - start)) if two else None
        hidden: list[nn.Module] = []
        for a, b in itertools.pairwise([dim + 1 + cond_dim + 2 * dim * n_frequencies, *[width] * depth]):
            hidden += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, dim), t (B,), cond (B, cond_dim) or None -> (B, dim)."""
        time = t * self._line[0] + self._line[1] if self._line else between_knots(t, self.knots)
        inputs = [x, time[:, None]]
        if cond is not None:
            inputs.append(cond)
        if len(self.frequencies):
            angles = (x[:, :, None] * self.frequencies).flatten(1)
            inputs += [angles.sin(), angles.cos()]
        return self.layers(torch.cat(inputs, dim=-1))


def between_knots(t: Tensor, knots: Tensor) -> Tensor:
    """Piecewise linear reading in [-1, 1] of times t (B,): increasing `knots` (K,) lie at equal distances."""
    n = len(knots) - 1
    k = torch.bucketize(t.detach(), knots[1:-1].to(t.dtype), right=True)
    start, end = knots[k].to(t.dtype), knots[k + 1].to(t.dtype)
    return 2 * (k + (t - start) / (end - start)) / n - 1
