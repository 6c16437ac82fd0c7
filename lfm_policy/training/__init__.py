"""Training runs: configuration, loop, checkpoints."""

from lfm_policy.training.config import TrainConfig
from lfm_policy.training.trainer import Trainer

__all__ = ["TrainConfig", "Trainer"]
