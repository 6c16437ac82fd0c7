"""Policies that need no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lfm_policy.data.action_space import ActionSpace
from lfm_policy.policy import (
    ChainConfig,
    LFMConfig,
    LFMPolicy,
    Policy,
    PolicySpec,
    UNetConfig,
    save_policy,
)
from tests.helpers.point import PLAIN, POINT, STEP


def point_spec(**changes: Any) -> PolicySpec:
    """What a policy for the point environment reads and writes."""
    action_space = ActionSpace("delta", "axis_angle", "world", 10, {"gain": STEP}, 2)
    values: dict[str, Any] = {
        "observation": (("position", 2), ("goal", 2)),
        "action_space": action_space,
        "n_obs_steps": 2,
        "horizon": 4,
        "n_action_steps": 2,
        "env_id": POINT,
        "env_version": "1.5.0",
    }
    return PolicySpec(**values | changes)


def plain_spec() -> PolicySpec:
    """The same for the environment that gives a vector."""
    return point_spec(observation=(("state", 4),), env_id=PLAIN)


class ProportionalPolicy(Policy):
    """Towards the goal, a quarter of the way; with noise, that is added to every action of a chunk."""

    nfe = 3
    multiply_adds = 1_000

    def __init__(self, spec: PolicySpec | None = None, noise: float = 0.0) -> None:
        super().__init__(spec or point_spec())
        self.noise = noise
        self.weight = nn.Parameter(torch.zeros(1))

    def predict_action(self, obs: Mapping[str, Any], generator: torch.Generator | None = None) -> Tensor:
        joined = self.joined(obs)[:, -1]
        action = (joined[:, 2:] - joined[:, :2]) / 4 / STEP
        chunk = action[:, None].repeat(1, self.spec.horizon, 1)
        return chunk + self.noise * torch.randn(chunk.shape, generator=generator)


def noisy() -> ProportionalPolicy:
    """A policy that sometimes fails, depending on its noise alone."""
    return ProportionalPolicy(noise=0.6)


def point_checkpoint(folder: Path) -> Path:
    """The checkpoint of a small LFM policy for the point environment that has learned nothing."""
    config = LFMConfig(UNetConfig(channels=(8, 16), embedding_dim=16), ChainConfig(n_subflows=2))
    dataset = {"file": "point.hdf5", "sha256": "0" * 64, "n_episodes": 3, "n_frames": 30}
    save_policy(LFMPolicy(point_spec(), config), folder, step=40, dataset=dataset)
    return folder
