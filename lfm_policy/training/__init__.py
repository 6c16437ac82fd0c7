"""Training runs: configuration, loop, checkpoints."""

from lfm_policy.training.config import (
    ChunkConfig,
    DataConfig,
    FlowConfig,
    RolloutConfig,
    TrainConfig,
    TrainingConfig,
)
from lfm_policy.training.trainer import Trainer

__all__ = [
    "ChunkConfig",
    "DataConfig",
    "FlowConfig",
    "RolloutConfig",
    "TrainConfig",
    "Trainer",
    "TrainingConfig",
]
