"""Robot policies learned from demonstrations by Local Flow Matching."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

__version__ = metadata.version("lfm_policy")

_PUBLIC = {
    "DatasetWriter": "lfm_policy.data",
    "LFMError": "lfm_policy.flow",
    "LocalFlow": "lfm_policy.flow",
    "Schedule": "lfm_policy.flow",
    "TrainConfig": "lfm_policy.training",
    "Trainer": "lfm_policy.training",
    "evaluate": "lfm_policy.evaluation.rollout",
    "fit_local_flow": "lfm_policy.flow",
    "LFMPolicy": "lfm_policy.policy",
    "load_policy": "lfm_policy.policy",
}

__all__ = [
    "DatasetWriter",
    "LFMError",
    "LFMPolicy",
    "LocalFlow",
    "Schedule",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "fit_local_flow",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `lfm --help` shall not wait for torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lfm_policy' has no attribute '{name}'")
