"""robomimic's observation encoders as part of a velocity field."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import robomimic.utils.obs_utils as obs_utils
import torch
from robomimic.models.obs_nets import obs_encoder_factory
from torch import Tensor, nn

from lfm_policy.nets import EncodedField, UNet1d


class HistoryEncoder(nn.Module):
    """robomimic's encoder on each of To observations; conditions (B, To · D) to features (B, To · F).

    `shapes` are those of an observation by key, in the order in which they lie flattened in a condition;
    `encoder_config` is robomimic's `config.observation.encoder`.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], n_obs_steps: int, encoder_config: Any) -> None:
        super().__init__()
        self.shapes, self.n_obs_steps = {key: tuple(shape) for key, shape in shapes.items()}, n_obs_steps
        kwargs = obs_utils.obs_encoder_kwargs_from_config(encoder_config)
        ordered = OrderedDict((key, list(shape)) for key, shape in self.shapes.items())
        self.encoder = obs_encoder_factory(ordered, encoder_kwargs=kwargs)
        self.dim = n_obs_steps * self.encoder.output_shape()[0]

    def forward(self, cond: Tensor) -> Tensor:
        """cond (B, To · D) -> features (B, To · F)."""
        frames = cond.reshape(len(cond) * self.n_obs_steps, -1)
        parts = torch.split(frames, [math.prod(shape) for shape in self.shapes.values()], dim=-1)
        obs = {key: part.reshape(-1, *shape) for (key, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return self.encoder(obs).reshape(len(cond), self.dim)


def encoded_unet(encoder: HistoryEncoder, action_dim: int, network: Mapping[str, Any]) -> EncodedField:
    """A UNet of action chunks conditioned on what `encoder` makes of the observations."""
    return EncodedField(encoder, UNet1d(action_dim, encoder.dim, **network))
