"""Tensors that many tests need."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from lfm_policy.flow.random import named_generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers (float64)."""
    return torch.randn(*shape, generator=named_generator(seed, "test"), dtype=torch.float64)


def through_a_file(state: Any) -> Any:
    """A state as it comes back from where it was kept, read as weights only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
