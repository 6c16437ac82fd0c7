"""A small policy with every part a large one has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lfm_policy.data.action_space import ActionSpace
from lfm_policy.data.normalizer import Normalizer
from lfm_policy.policy import ChainConfig, LFMConfig, LFMPolicy, PolicySpec, Sampler, UNetConfig

TO, TP, TA, DA = 2, 8, 4, 3
CONFIG = LFMConfig(
    UNetConfig(channels=(8, 16), kernel_size=3, n_groups=4, embedding_dim=8),
    ChainConfig(n_subflows=3, c=0.2, rho=1.5),
    Sampler("midpoint", steps=2),
)


def tiny_spec(**changes: Any) -> PolicySpec:
    """Two keys, three action dimensions."""
    space = ActionSpace("delta", "axis_angle", "world", 20, {"kp": 150}, DA)
    spec = PolicySpec((("object", 4), ("eef", 3)), space, TO, TP, TA, "lfm/Lift-v0", {"a": [1, 2]}, "1.5.2")
    return replace(spec, **changes)


def tiny_policy(config: LFMConfig = CONFIG, normalized: bool = True, **changes: Any) -> LFMPolicy:
    """With normalisers that move every dimension, unless told not to."""
    policy = LFMPolicy(tiny_spec(**changes), config, seed=1)
    if normalized:
        g = torch.Generator().manual_seed(0)
        offset, scale = torch.randn(10, generator=g), torch.rand(10, generator=g) + 0.3
        for normalizer, part in ((policy.observation_normalizer, slice(7)), (policy.action_normalizer, slice(7, 10))):
            set_normalizer(normalizer, offset[part], scale[part])
    return policy.eval()


def set_normalizer(normalizer: Normalizer, offset: Tensor, scale: Tensor) -> None:
    normalizer.offset.copy_(offset)
    normalizer.scale.copy_(scale)


def observations(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Histories (count, To, D) by key."""
    g = torch.Generator().manual_seed(seed)
    return {key: torch.randn(count, TO, dim, generator=g) for key, dim in tiny_spec().observation}
