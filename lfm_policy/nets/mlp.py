"""A fully connected velocity field for vectors."""

from __future__ import annotations

import itertools

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

    The paper's network for 2-D and tabular data: time enters once, as a number, at the input (Table A.1).
    """

    def __init__(self, dim: int, width: int = 256, depth: int = 3, activation: str = "silu", cond_dim: int = 0) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"network.activation: '{activation}' is not one of {', '.join(ACTIVATIONS)}")
        widths = [dim + 1 + cond_dim, *[width] * depth]
        hidden: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            hidden += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], dim))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, dim), t (B,), cond (B, cond_dim) or None -> (B, dim)."""
        inputs = [x, t[:, None]] if cond is None else [x, t[:, None], cond]
        return self.layers(torch.cat(inputs, dim=-1))
