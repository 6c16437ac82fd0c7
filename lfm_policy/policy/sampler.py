"""How chunks are drawn from noise: its temperature, and the solver that pulls flows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_policy.flow import LFMError, Solver
from lfm_policy.flow.random import normal


@dataclass(frozen=True)
class Sampler(Solver):
    """How a flow's chunks are drawn: the solver of its sub-flows and the noise that they begin from.

    Args:
        temperature: standard deviation of that noise, as in Glow (Kingma and Dhariwal 2018). 1, if not given, draws
            from the density that `log_prob` tells; below it chunks scatter less, at 0 there is no noise.
    """

    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "temperature", checked_temperature("sampler.temperature", self.temperature))


def checked_temperature(name: str, value: float | None) -> float | None:
    """The temperature, None for 1; LFMError, naming the field, where it is negative or not finite."""
    if value is not None and not 0 <= value < math.inf:
        raise LFMError(f"{name}: {value} must be 0 or more")
    return None if value == 1 else value


def initial_noise(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None, temperature: float | None
) -> Tensor:
    """Normal noise of `shape` with that standard deviation (None: 1), the same draws at every temperature."""
    return normal(shape, like, generator) * (1.0 if temperature is None else temperature)
