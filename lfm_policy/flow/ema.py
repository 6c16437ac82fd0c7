"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import nn


def ema_decay(step: int, power: float = 0.75, maximum: float = 0.9999) -> float:
    """Decay 1 - (1 + step)^-power, at most `maximum`: short memory early, long later (Diffusion Policy's)."""
    return min(maximum, 1.0 - (1.0 + step) ** -power)


@torch.no_grad()
def ema_update(average: nn.Module, current: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · current, for all parameters in one fused call."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1.0 - decay)
    for mean, value in zip(average.buffers(), current.buffers(), strict=True):
        mean.copy_(value)
