"""Small training runs on small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lfm_policy.policy import UNetConfig
from lfm_policy.training import TrainConfig, Trainer
from lfm_policy.training.config import ChunkConfig, DataConfig, FlowConfig, TrainingConfig
from tests.data.recordings import Episode, episode, write_robomimic_file

ALGORITHM_1 = {"interpolant": "ot", "coupling": "fresh", "marginals": "pushed"}
TINY = UNetConfig(channels=(8, 16), kernel_size=3, n_groups=4, embedding_dim=8)


def small_dataset(path: Path, n: int = 5, seed: int = 0) -> Path:
    """A file of n clean episodes with gaps in its numbering and no masks."""
    rng = np.random.default_rng(seed)
    episodes: dict[str, Episode] = {f"demo_{3 * k + 1}": episode(rng, 20 + k) for k in range(n)}
    return write_robomimic_file(path, episodes)


def small_config(data: Path, output_dir: Path, flow: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """A run of three sub-flows on pushed data, six steps each, that logs and evaluates at every second step."""
    return TrainConfig(
        output_dir=str(output_dir),
        data=DataConfig(path=str(data), valid_fraction=0.2),
        policy=ChunkConfig(horizon=8, n_action_steps=4),
        network=TINY,
        flow=FlowConfig(**{"n_subflows": 3, **ALGORITHM_1, **(flow or {})}),
        training=TrainingConfig(
            steps=6, batch_size=16, learning_rate=1e-3, warmup_steps=2, log_every=2, valid_every=3, checkpoint_every=4
        ),
        **changes,
    )


def train(config: TrainConfig) -> Path:
    """Run it; the newest checkpoint."""
    return Trainer(config, say=lambda line: None).run()


def metrics(run: Path) -> list[dict[str, Any]]:
    """The log without its timings."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "steps_per_second"} for row in rows]
