"""Policies: what a robot runs."""

from lfm_policy.policy.base import Policy
from lfm_policy.policy.chunker import ActionChunker
from lfm_policy.policy.lfm import ChainConfig, LFMConfig, LFMPolicy, UNetConfig
from lfm_policy.policy.serialization import find_checkpoint, load_policy, save_policy
from lfm_policy.policy.spec import PolicySpec

__all__ = [
    "ActionChunker",
    "ChainConfig",
    "LFMConfig",
    "LFMPolicy",
    "Policy",
    "PolicySpec",
    "UNetConfig",
    "find_checkpoint",
    "load_policy",
    "save_policy",
]
