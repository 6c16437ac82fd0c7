"""The policy that robomimic's algorithm trains, and which acts while some of its sub-flows are still untrained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from lfm_policy.data.action_space import ActionSpace
from lfm_policy.flow import LocalFlow
from lfm_policy.flow.random import named_seed
from lfm_policy.integrations.robomimic.encoder import HistoryEncoder, encoded_unet
from lfm_policy.policy import LFMPolicy, PolicySpec
from lfm_policy.policy.sampler import initial_noise
from lfm_policy.training import TrainConfig


class StagedPolicy(LFMPolicy):
    """An LFMPolicy that acts with what is trained of it, as robomimic's rollouts during training ask for.

    The first n sub-flows alone are pulled from N(0, I), as if p_n were it already: the chain that Algorithm 1 would
    have ended with. Actions scatter too widely then, but come from trained networks only. Where one network trained
    on all stretches together, it serves them all. `n_trained` is kept with the weights: n, or 0 for that network.
    """

    n_trained: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("n_trained", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks of `shape` (B, Tp, Da) pulled through what is trained, given cond (B, To · D)."""
        noise = initial_noise(shape, cond, generator, self.config.sampler.temperature)
        flow, n = self.flow, int(self.n_trained)
        if n == 0:
            flow, n = LocalFlow([self.flow.field(1)], self.flow.schedule), self.flow.n_subflows
        return flow.pull(noise, cond, self.config.sampler, range(n, 0, -1))


def build_policy(
    config: TrainConfig, shapes: Mapping[str, Sequence[int]], action_dim: int, encoder_config: Any = None
) -> StagedPolicy:
    """An untrained policy for observations of `shapes` by key.

    With robomimic's `config.observation.encoder` its sub-flows encode observations, each with its own encoder;
    without, normalised observations are the condition as they are.
    """
    chunk = config.policy
    observation = tuple((key, math.prod(shape)) for key, shape in shapes.items())
    # robomimic's environments know what the numbers mean; here only their count counts
    space = ActionSpace("delta", "axis_angle", "", 20, {}, action_dim)
    spec = PolicySpec(observation, space, chunk.n_obs_steps, chunk.horizon, chunk.n_action_steps)

    def make_field() -> torch.nn.Module:
        encoder = HistoryEncoder(shapes, chunk.n_obs_steps, encoder_config)
        return encoded_unet(encoder, action_dim, asdict(config.network))

    seed = named_seed(config.seed, "weights")
    return StagedPolicy(spec, config.lfm(), seed, None if encoder_config is None else make_field)
