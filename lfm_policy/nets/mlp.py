"""A fully connected velocity field for vectors."""

from __future__ import annotations

import itertools
import math

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

    With `n_frequencies` = 0 the paper's network for 2-D and tabular data: time enters once, as a number, at the input
    (Table A.1). With more, sines and cosines of every coordinate at that many octaves of frequency, beginning with a
    period of 8, and a logarithmic reading of the clock stand beside them: what fine structure near the data needs.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 3,
        activation: str = "silu",
        cond_dim: int = 0,
        n_frequencies: int = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"network.activation: '{activation}' is not one of {', '.join(ACTIVATIONS)}")
        if n_frequencies < 0:
            raise ValueError(f"network.n_frequencies: {n_frequencies} must not be negative")
        octaves = math.pi / 4 * 2.0 ** torch.arange(n_frequencies)
        self.register_buffer("frequencies", octaves, persistent=False)
        features = dim + 1 + cond_dim + (2 * dim * n_frequencies + 1 if n_frequencies else 0)
        hidden: list[nn.Module] = []
        for a, b in itertools.pairwise([features, *[width] * depth]):
            hidden += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, dim), t (B,), cond (B, cond_dim) or None -> (B, dim)."""
        inputs = [x, t[:, None]] if cond is None else [x, t[:, None], cond]
        if len(self.frequencies):
            angles = (x[:, :, None] * self.frequencies).flatten(1)
            inputs += [log_signal_to_noise(t)[:, None], angles.sin(), angles.cos()]
        return self.layers(torch.cat(inputs, dim=-1))


def log_signal_to_noise(t: Tensor, floor: float = 0.01) -> Tensor:
    """log(noise / signal) (B,) at clock t (B,), where signal and noise are cos and sin of πt/2, each + `floor`."""
    angle = math.pi / 2 * t
    return torch.log((angle.sin() + floor) / (angle.cos() + floor))
