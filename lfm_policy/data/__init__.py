"""What comes in: demonstrations, chunks of them, normalisation, rotations, and the action convention."""

from __future__ import annotations

from lfm_policy.data.action_space import (
    ActionSpace,
    Representation,
    Rotation,
    check_env_version,
    installed_version,
)
from lfm_policy.data.chunks import chunk_indices
from lfm_policy.data.demonstrations import Demonstrations, LazyDemonstrations, MemoryDemonstrations
from lfm_policy.data.normalizer import Normalizer, Statistics
from lfm_policy.data.robomimic import (
    dataset_identity,
    env_id_of,
    read_demonstrations,
    split_episodes,
    split_names,
)
from lfm_policy.data.writer import DatasetWriter

__all__ = [
    "ActionSpace",
    "DatasetWriter",
    "Demonstrations",
    "LazyDemonstrations",
    "MemoryDemonstrations",
    "Normalizer",
    "Representation",
    "Rotation",
    "Statistics",
    "check_env_version",
    "chunk_indices",
    "dataset_identity",
    "env_id_of",
    "installed_version",
    "read_demonstrations",
    "split_episodes",
    "split_names",
]
