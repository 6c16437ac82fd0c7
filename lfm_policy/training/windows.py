"""Training windows of demonstrations as a flow's samples: normalised action chunks and observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lfm_policy.data.demonstrations import Demonstrations
from lfm_policy.policy.base import ChunkPolicy


@dataclass(frozen=True)
class WindowSource:
    """Windows (M, Tp) of demonstrations as a policy sees them: chunks (B, Tp, Da), conditions (B, To · D)."""

    demonstrations: Demonstrations
    windows: Tensor
    policy: ChunkPolicy

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised chunks (B, Tp, Da) and normalised, flattened histories (B, To · D)."""
        observations, actions = self.gather(index)
        policy = self.policy
        cond = policy.observation_normalizer.normalize(observations.to(policy.device)).flatten(1)
        return policy.action_normalizer.normalize(actions.to(policy.device)), cond

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Histories (B, To, D) and chunks (B, Tp, Da) in their own units."""
        return self.demonstrations.gather(self.windows[index], self.policy.spec.n_obs_steps)


def make_windows(demonstrations: Demonstrations, policy: ChunkPolicy) -> WindowSource:
    """All windows of Diffusion Policy's padding: To - 1 steps before an episode, Ta - 1 after it."""
    spec = policy.spec
    windows = demonstrations.windows(spec.n_obs_steps, spec.horizon, spec.n_obs_steps - 1, spec.n_action_steps - 1)
    return WindowSource(demonstrations, windows, policy)


def split_observation(observations: Tensor, policy: ChunkPolicy) -> dict[str, Tensor]:
    """Joined observations (B, To, D) as the dict that policies take."""
    keys, dims = zip(*policy.spec.observation, strict=True)
    return dict(zip(keys, torch.split(observations, list(dims), dim=-1), strict=True))
