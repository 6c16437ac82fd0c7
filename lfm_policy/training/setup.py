"""What a run needs before its first step: checks, demonstrations, an untrained policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lfm_policy.data.action_space import check_env_version, installed_version
from lfm_policy.data.demonstrations import Demonstrations
from lfm_policy.data.goals import action_key_of
from lfm_policy.data.normalizer import Mode, Normalizer, Statistics
from lfm_policy.data.object_layout import check_layout
from lfm_policy.data.robomimic import dataset_identity, env_id_of, read_demonstrations, split_names
from lfm_policy.flow import LFMError
from lfm_policy.flow.random import named_seed
from lfm_policy.policy import PolicySpec
from lfm_policy.policy.base import FittedPolicy
from lfm_policy.training.config import DataConfig, TrainConfig
from lfm_policy.training.methods import METHODS


def identify(data: DataConfig, seed: int) -> dict[str, Any]:
    """The dataset's identity, once its robosuite version is accepted: hashes of all that is learned from, and of which
    episodes a run of `seed` trains on and holds out."""
    actions = action_key_of(data.path, data.representation, data.filter_key)
    keys = [actions, *(f"obs/{key}" for key in data.obs_keys)]
    identity = dataset_identity(data.path, keys, data.filter_key)
    if data.check_version:
        check_env_version(data.path, identity["env_args"], installed_version())
        if "object" in data.obs_keys:
            check_layout(data.path, identity["env_args"], installed_version())
    return {**identity, "split": hashlib.sha256(json.dumps(_split(data, seed)).encode()).hexdigest()}


def check_same(dataset: dict[str, Any], path: str, folder: Path, trained_on: dict[str, Any], remedy: str) -> None:
    """Raise LFMError where the dataset at `path` is not the one that the checkpoint in `folder` tells of."""
    if dataset["sha256"] != trained_on["sha256"]:
        raise LFMError(
            f"{path}: is not the dataset that {folder} was trained on "
            f"({trained_on['file']}, {trained_on['n_episodes']} episodes); {remedy}"
        )
    if trained_on.get("split", dataset["split"]) != dataset["split"]:
        raise LFMError(
            f"{path}: has other masks than when {folder} was trained, which would be trained on other episodes now; "
            "undo that, or start anew"
        )


def _split(data: DataConfig, seed: int) -> tuple[list[str], list[str]]:
    return split_names(data.path, data.valid_fraction, named_seed(seed, "split"), data.filter_key)


def read(data: DataConfig, seed: int, say: Callable[[str], None]) -> tuple[Demonstrations, Demonstrations | None]:
    """Demonstrations to train on and those held out (None without any) in a run of `seed`; `say` hears of sizes."""
    parts: list[Demonstrations | None] = []
    for part, names in zip(("to train on", "held out"), _split(data, seed), strict=True):
        parts.append(
            read_demonstrations(
                data.path,
                data.obs_keys,
                representation=data.representation,
                rotation=data.rotation,
                names=names,
                max_memory_gb=data.max_memory_gb,
                on_size=lambda size, part=part: say(f"{part}: {size}"),  # type: ignore[misc]
            )
            if names
            else None
        )
    train, valid = parts
    if train is None:
        raise LFMError(f"{data.path}: mask/train holds none of data.filter_key {data.filter_key}; choose another")
    return train, valid


def build_policy(config: TrainConfig, train: Demonstrations) -> FittedPolicy:
    """An untrained policy whose spec and normalisers are those of the demonstrations it will learn from."""
    try:
        env_id = env_id_of(train.env_args, config.data.path)
    except LFMError:
        env_id = ""  # one's own robot: trained without a simulator, rolled out with --env_id
    spec = PolicySpec(
        observation=tuple(zip(train.obs_keys, train.obs_dims, strict=True)),
        action_space=train.action_space,
        n_obs_steps=config.policy.n_obs_steps,
        horizon=config.policy.horizon,
        n_action_steps=config.policy.n_action_steps,
        env_id=env_id,
        env_kwargs=_env_kwargs(train),
        env_version=str(train.env_args.get("env_version", "")),
        env_observation=dict(train.env_args.get("observation") or {}),
        success_key=str(train.env_args.get("success_key") or ""),
    )
    policy = METHODS[config.method].build(config, spec, named_seed(config.seed, "weights"))
    observations, actions = Statistics(spec.observation_dim), Statistics(spec.action_space.dim)
    for episode_observations, episode_actions in train.frames():  # once: the file may be larger than memory
        observations.update(episode_observations)
        actions.update(episode_actions)
    policy.observation_normalizer = _normalizer(observations, config.data.observation_normalizer)
    policy.action_normalizer = _normalizer(actions, config.data.action_normalizer)
    return policy


def _env_kwargs(train: Demonstrations) -> dict[str, Any]:
    """What makes the dataset's environment take the actions that the policy learns."""
    kwargs, space = dict(train.env_args.get("env_kwargs", {})), train.action_space
    if space.controller:
        kwargs |= {"representation": space.representation, "rotation": space.rotation}
    return kwargs


def _normalizer(statistics: Statistics, mode: Mode) -> Normalizer:
    return Normalizer.from_statistics(statistics.min, statistics.max, statistics.mean, statistics.std, mode)
