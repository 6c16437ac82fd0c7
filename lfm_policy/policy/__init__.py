"""Policies: what a robot runs."""

from lfm_policy.policy.base import ChunkPolicy, Policy
from lfm_policy.policy.behavior_cloning import MIPPolicy, MIPSettings, RegressionPolicy
from lfm_policy.policy.chunker import ActionChunker
from lfm_policy.policy.diffusion import DiffusionPolicy, DiffusionSettings
from lfm_policy.policy.distilled import DistilledPolicy
from lfm_policy.policy.lfm import ChainConfig, LFMConfig, LFMPolicy
from lfm_policy.policy.network import UNetConfig
from lfm_policy.policy.sampler import Sampler
from lfm_policy.policy.serialization import find_checkpoint, load_policy, save_policy
from lfm_policy.policy.spec import PolicySpec

__all__ = [
    "ActionChunker",
    "ChainConfig",
    "ChunkPolicy",
    "DiffusionPolicy",
    "DiffusionSettings",
    "DistilledPolicy",
    "LFMConfig",
    "LFMPolicy",
    "MIPPolicy",
    "MIPSettings",
    "Policy",
    "PolicySpec",
    "RegressionPolicy",
    "Sampler",
    "UNetConfig",
    "find_checkpoint",
    "load_policy",
    "save_policy",
]
