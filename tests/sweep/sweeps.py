"""A small sweep, and its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lfm_policy.cli.train import parse
from lfm_policy.sweep.plan import Run, SweepConfig, TaskConfig, plan_runs
from tests.helpers.point import PLAIN

TRAIN = {
    "data": {"obs_keys": ["state"], "action_normalizer": "minmax"},
    "policy": {"horizon": 8, "n_action_steps": 4},
    "network": {"channels": [8, 16], "kernel_size": 3, "n_groups": 4, "embedding_dim": 8},
    "global_channels": [16, 32],
    "flow": {"n_subflows": 2, "interpolant": "geodesic", "coupling": "common", "marginals": "exact", "shared_start": 4},
    "training": {"steps": 8, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 2, "checkpoint_every": 3},
}
METHODS: dict[str, dict[str, Any]] = {
    "lfm": {"samplers": ["euler 1", "euler 2 temperature 0.5"]},
    "fm": {"method": "fm", "training.learning_rate": 2e-3},
    "regression": {"method": "regression"},
}
N = 6


def config_of(folder: Path, data: Path, **changes: Any) -> SweepConfig:
    train = folder / "train.yaml"
    train.write_text(yaml.safe_dump(TRAIN))
    task = TaskConfig(str(train), PLAIN, data=str(data), n_rollouts=N)
    values: dict[str, Any] = {"tasks": {"point": task}, "methods": METHODS, "n_procs": 1, **changes}
    return SweepConfig(str(folder / "out"), **values)


def runs_of(config: SweepConfig) -> list[Run]:
    return plan_runs(config, lambda flags: parse(flags, "lfm sweep"))
