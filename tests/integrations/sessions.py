"""robomimic's training loop without its scripts: a config, its own loader, and our algorithm, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import robomimic.utils.file_utils as file_utils
import robomimic.utils.obs_utils as obs_utils
import robomimic.utils.train_utils as train_utils
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from torch.utils.data import DataLoader

import lfm_policy.integrations.robomimic  # noqa: F401 - registers the algorithm
from tests.data.recordings import KEYS

TINY: dict[str, Any] = {
    "policy": {"n_action_steps": 4},
    "network": {"channels": [8, 16], "kernel_size": 3, "n_groups": 4, "embedding_dim": 8},
    "flow": {"n_subflows": 3, "interpolant": "ot", "coupling": "fresh", "marginals": "pushed", "push_steps": 1},
    "training": {"learning_rate": 1e-3, "warmup_steps": 2},
}


def tiny_config(data: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """What a user's JSON says: windows of 8 steps, 4 steps an epoch; `changes` by section, merged two levels deep."""
    values: dict[str, Any] = {
        "algo_name": "lfm",
        "experiment": {"name": "tiny", "epoch_every_n_steps": 4, "rollout": {"enabled": False}},
        "train": {"data": str(data), "batch_size": 8, "num_epochs": 3, "seq_length": 7, "cuda": False},
        "algo": TINY,
    }
    for section, content in changes.items():
        base = values.get(section, {})
        merged = {
            key: {**base.get(key, {}), **value} if isinstance(value, dict) else value for key, value in content.items()
        }
        values[section] = {**base, **merged}
    return values


@dataclass
class Session:
    """A run of robomimic's: config, what it knows of the dataset's shapes, and the algorithm."""

    config: Any
    shapes: dict[str, Any]
    model: Any

    def batches(self, validation: bool = False) -> DataLoader:
        """robomimic's own dataset behind a loader whose order is the dataset's."""
        parts = train_utils.load_data_for_training(self.config, obs_keys=self.shapes["all_obs_keys"])
        return DataLoader(parts[int(validation)], batch_size=self.config.train.batch_size, drop_last=True)

    def save(self, path: Path) -> Path:
        """The checkpoint that train.py writes."""
        env_meta = file_utils.get_env_metadata_from_dataset(self.config.train.data)
        train_utils.save_model(self.model, self.config, env_meta, self.shapes, str(path))
        return path


def begin(values: dict[str, Any]) -> Session:
    """As train.py does it, as far as the algorithm."""
    config = config_factory("lfm")
    with config.values_unlocked():
        config.update(values)
    config.lock()
    torch.manual_seed(config.train.seed)
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = file_utils.get_shape_metadata_from_dataset(config.train.data, all_obs_keys=config.all_obs_keys)
    arguments = {"obs_key_shapes": shapes["all_shapes"], "ac_dim": shapes["ac_dim"], "device": torch.device("cpu")}
    return Session(config, shapes, algo_factory("lfm", config, **arguments))


def run_epoch(session: Session, epoch: int, **arguments: Any) -> dict[str, float]:
    """robomimic's run_epoch; its log."""
    steps = session.config.experiment.epoch_every_n_steps
    log = train_utils.run_epoch(session.model, session.batches(), epoch, num_steps=steps, **arguments)
    session.model.on_epoch_end(epoch)
    return log


def observation(seed: int) -> dict[str, torch.Tensor]:
    """What robomimic gives a policy of Lift's keys, without stacked frames."""
    generator = torch.Generator().manual_seed(seed)
    dims = dict(zip(KEYS, (10, 3, 4, 2), strict=True))
    return {key: torch.randn(1, dim, generator=generator) for key, dim in dims.items()}


def act(model: Any, count: int = 6) -> torch.Tensor:
    """Actions (count, Da) of an episode, a function of the weights and torch's seed."""
    model.set_eval()
    model.reset()
    return torch.cat([model.get_action(observation(seed)) for seed in range(count)])
