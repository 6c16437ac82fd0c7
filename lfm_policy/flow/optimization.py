"""How one network is optimised: its settings, its learning rate, and one step with the average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lfm_policy.flow.ema import EMA, ema_decay
from lfm_policy.flow.errors import LFMError


@dataclass(frozen=True)
class Optimization:
    """How one network is optimised.

    Args:
        batch_size: samples per step.
        learning_rate: its peak.
        beta1: of Adam.
        beta2: of Adam.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up, at most half of all steps.
        lr_decay: `cosine` to zero at the last step, `constant`, or `step`: times `lr_factor` every `lr_every` steps.
        lr_factor: of `step`.
        lr_every: of `step`.
        max_grad_norm: clip gradients to this norm.
        ema_power: of the EMA's decay 1 - (1 + step)^-power.
        ema_maximum: largest decay.
        accumulate: pieces of a batch whose gradients are summed one after the other, for less memory; the step is the
            same but for rounding.
        autocast: evaluate networks in bfloat16 while they are trained, on devices known to support it; others, and all
            ODEs, stay in float32.
    """

    batch_size: int = 256
    learning_rate: float = 1e-4
    beta1: float = 0.95
    beta2: float = 0.999
    weight_decay: float = 1e-6
    warmup_steps: int = 500
    lr_decay: Literal["cosine", "constant", "step"] = "cosine"
    lr_factor: float = 0.99
    lr_every: int = 1000
    max_grad_norm: float | None = None
    ema_power: float = 0.75
    ema_maximum: float = 0.9999
    accumulate: int = 1
    autocast: bool = False

    def check(self) -> None:
        """Raise LFMError with the name of the first impossible setting."""
        for name in ("batch_size", "learning_rate", "lr_factor", "lr_every", "accumulate"):
            if not getattr(self, name) > 0:
                raise LFMError(f"{name}: {getattr(self, name)} must be positive")
        for name in ("warmup_steps", "weight_decay", "ema_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise LFMError(f"{name}: {getattr(self, name)} must be 0 or more and finite")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise LFMError(f"max_grad_norm: {self.max_grad_norm} must be positive, or null")
        if not 0 <= self.ema_maximum <= 1:
            raise LFMError(f"ema_maximum: {self.ema_maximum} must be 0 to 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise LFMError(f"{name}: {getattr(self, name)} must be 0 or more and below 1")
        if self.lr_decay not in ("cosine", "constant", "step"):
            raise LFMError(f"lr_decay: '{self.lr_decay}' is not one of cosine, constant, step")


def learning_rate(options: Optimization, step: int, steps: int) -> float:
    """Learning rate of step 0 … steps-1: linear warm-up, then constant, by steps, or by a cosine to zero."""
    warmup = min(options.warmup_steps, steps // 2)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if options.lr_decay == "constant":
        return options.learning_rate
    if options.lr_decay == "step":
        return options.learning_rate * options.lr_factor ** (step // options.lr_every)
    progress = (step - warmup) / max(1, steps - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class Descent:
    """AdamW on `network`, with the moving average of its weights kept in `average`.

    Gradients are clipped over each of `parts` by itself: networks that train side by side then stay independent.
    """

    def __init__(
        self, network: nn.Module, average: nn.Module, options: Optimization, parts: Sequence[nn.Module] | None = None
    ) -> None:
        self.options, self.ema = options, EMA(average, network)
        self._parts = [list(part.parameters()) for part in parts or [network]]
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
            fused=True,
        )

    def accumulate(self, losses: Iterable[Tensor]) -> float:
        """Take the gradient of a sum of losses, one after the other as they come, for `update`; that sum."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        return total

    def update(self, step: int, steps: int) -> float:
        """Step number `step` (from 0) of `steps` down the gradient at hand; its learning rate."""
        rate = learning_rate(self.options, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.options.max_grad_norm is not None:
            for weights in self._parts:
                nn.utils.clip_grad_norm_(weights, self.options.max_grad_norm)
        self.optimizer.step()
        self.ema.update(ema_decay(step, self.options.ema_power, self.options.ema_maximum))
        return rate

    def step(self, loss: Tensor, step: int, steps: int) -> float:
        """`accumulate` and `update` for a loss that is taken whole; the learning rate."""
        self.accumulate([loss])
        return self.update(step, steps)
