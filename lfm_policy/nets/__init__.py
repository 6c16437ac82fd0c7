"""Velocity fields v(x, t, cond): torch modules that know nothing of flows, robots or files."""

from lfm_policy.nets.encoded import EncodedField
from lfm_policy.nets.mlp import MLP
from lfm_policy.nets.unet1d import UNet1d

__all__ = ["MLP", "EncodedField", "UNet1d"]
