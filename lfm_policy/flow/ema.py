"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_decay(step: int, power: float = 0.75, maximum: float = 0.9999) -> float:
    """Decay 1 - (1 + step)^-power, at most `maximum`: short memory early, long later (Diffusion Policy's)."""
    return min(maximum, 1.0 - (1.0 + step) ** -power)


class EMA:
    """Keeps the weights of `average` as the moving average of those of `current`.

    The lists of weights are made once: walking through a small network's modules at every step takes as long as its
    optimiser does.
    """

    def __init__(self, average: nn.Module, current: nn.Module) -> None:
        self.average: list[Tensor] = list(average.parameters())
        self.current: list[Tensor] = list(current.parameters())
        self._buffers = list(zip(average.buffers(), current.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay · average + (1 - decay) · current, for all weights in one fused call."""
        torch._foreach_lerp_(self.average, self.current, 1.0 - decay)
        for mean, value in self._buffers:
            mean.copy_(value)
