"""Rows and policies of comparisons, made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lfm_policy.evaluation.comparison import Comparison, Evaluated, compare
from lfm_policy.policy import (
    ChainConfig,
    LFMConfig,
    LFMPolicy,
    PolicySpec,
    RegressionPolicy,
    Sampler,
    UNetConfig,
    save_policy,
)
from lfm_policy.policy.behavior_cloning import RegressionConfig
from tests.helpers.policies import point_spec

NETWORK = UNetConfig(channels=(8, 16), embedding_dim=16)
DATASET = {"file": "point.hdf5", "sha256": "0" * 64, "n_episodes": 3, "n_frames": 30}
FIRST = 100_000


def rows(successes: Sequence[bool], scores: Sequence[float] | None = None, first: int = FIRST) -> list[dict[str, Any]]:
    """Rows of episodes of 10 steps with two chunks, that take 1 s each: 0.5 in the simulator, 0.3 in networks."""
    shared = {"steps": 10, "return": 1.0, "chunks": 2, "env_seconds": 0.5, "wall_seconds": 1.0}
    scores = [float(success) for success in successes] if scores is None else scores
    return [
        {"seed": first + k, "success": bool(success), "max_reward": score, **shared, "chunk_seconds": [0.1, 0.2]}
        for k, (success, score) in enumerate(zip(successes, scores, strict=True))
    ]


def evaluated(label: str, successes: Sequence[bool], **facts: Any) -> Evaluated:
    """A checkpoint's rollouts."""
    scores = facts.pop("scores", None)
    environment = {"env_id": "lfm/Lift-v0", "max_steps": 400}
    return Evaluated(label, rows(successes, scores), {"checkpoint": {}, "environment": environment}, **facts)


def drawn(label: str, rate: float, n: int, seed: int, **facts: Any) -> Evaluated:
    """The same with successes drawn at random."""
    return evaluated(label, (np.random.default_rng(seed).random(n) < rate).tolist(), training_seed=seed, **facts)


def lfm_checkpoint(folder: Path, seed: int = 0, spec: PolicySpec | None = None, **facts: Any) -> Path:
    """A run's checkpoint of a small LFM policy that has learned nothing and sometimes hits its goal by chance."""
    config = LFMConfig(NETWORK, ChainConfig(n_subflows=1), Sampler("euler", steps=1))
    policy = LFMPolicy(spec or point_spec(), config, seed=seed)
    return _saved(policy, folder, seed, facts)


def regression_checkpoint(folder: Path, seed: int = 0, **facts: Any) -> Path:
    """The same of a policy without a sampler."""
    return _saved(RegressionPolicy(point_spec(), RegressionConfig(NETWORK), seed), folder, seed, facts)


def _saved(policy: Any, folder: Path, seed: int, facts: dict[str, Any]) -> Path:
    checkpoint = folder / "checkpoints" / "step_40"
    checkpoint.mkdir(parents=True)
    config = {"seed": seed, "rollout": {"n_rollouts": 0, "seed": 50_000}, **facts.pop("config", {})}
    save_policy(policy, checkpoint, **{"step": 40, "dataset": DATASET, "config": config, **facts})
    return folder


A, B = [True] * 12 + [False] * 3 + [True] * 5, [False] * 9 + [True] * 6 + [True] * 5


def compared(*runs: Evaluated, **options: Any) -> Comparison:
    """A comparison of runs by their labels."""
    methods: dict[str, list[Evaluated]] = {}
    for run in runs:
        methods.setdefault(run.label, []).append(run)
    return compare(methods, **options)


def everything() -> Comparison:
    """Two methods of two training runs at three budgets and two samplers, with scores."""
    rng = np.random.default_rng(0)
    runs = [
        evaluated(
            f"{name}@{step}.{nfe}",
            (rng.random(40) < 0.2 + step / 200).tolist(),
            scores=rng.random(40).tolist(),
            training_seed=seed,
            step=float(step),
            nfe=nfe,
            multiply_adds=nfe * 1000,
            rows_file=f"rows/{name}.jsonl",
        )
        for name in ("local_flow_matching", "flow_matching")
        for step in (30, 60, 120)
        for nfe in (2, 8)
        for seed in (0, 1)
    ]
    return compared(*runs, notes=["trained on different data (sha256: a 0, b 1)"])


def at(label: str, temperature: float | None, **facts: Any) -> Evaluated:
    """A checkpoint's rollouts at a temperature."""
    run = evaluated(label, A, step=100.0, nfe=16, **facts)
    return replace(run, identity={**run.identity, "checkpoint": {"sampler": {"temperature": temperature}}})
