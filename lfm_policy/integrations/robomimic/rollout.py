"""Our checkpoints inside robomimic's rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robomimic.algo import RolloutPolicy

from lfm_policy.data.rotation import actions_to_axis_angle
from lfm_policy.flow import LFMError
from lfm_policy.flow.random import named_seed
from lfm_policy.policy import Policy, find_checkpoint, load_policy
from lfm_policy.policy.serialization import read_description


class LFMRolloutPolicy(RolloutPolicy):
    """A policy of ours as robomimic's rollouts take one.

    It keeps its own history, so the environment need not stack frames; of stacked ones it takes the newest. Noise is
    a function of torch's seed, which robomimic's scripts set, and the episode's number; `seed` replaces torch's.
    """

    def __init__(self, policy: Policy, seed: int | None = None) -> None:
        super().__init__(policy)
        self.seed, self.episode = seed, 0

    def start_episode(self) -> None:
        """Begin an episode."""
        base = torch.initial_seed() if self.seed is None else self.seed
        self.policy.reset(named_seed(base, "robomimic episode", self.episode))
        self.episode += 1

    def __call__(self, ob: Mapping[str, Any], goal: Any = None, **_: Any) -> np.ndarray:
        """The next action (Da,), axis-angle where it holds a rotation, for an environment's observation."""
        newest = {key: _newest(ob, key, dim) for key, dim in self.policy.spec.observation}
        action = self.policy.act(newest)
        if self.policy.spec.action_space.rotation == "rotation_6d":  # robosuite takes axis-angle
            action = actions_to_axis_angle(torch.from_numpy(action)).numpy()
        return action


def rollout_policy(checkpoint: str | Path, seed: int | None = None) -> LFMRolloutPolicy:
    """The policy of our checkpoint (its folder, or a run's) as a robomimic RolloutPolicy; see `rollout_env`."""
    return LFMRolloutPolicy(load_policy(checkpoint), seed)


def rollout_env(checkpoint: str | Path, **env_kwargs: Any) -> Any:
    """robomimic's own environment for our checkpoint, made from the `env_args` of the dataset it learned from.

    `env_kwargs` overrule the dataset's. A policy of absolute actions gets a controller that takes them.
    """
    import robomimic.utils.env_utils as env_utils
    import robomimic.utils.obs_utils as obs_utils

    folder = find_checkpoint(checkpoint)
    description = read_description(folder)
    env_args = (description.get("dataset") or {}).get("env_args") or {}
    if not env_args.get("env_name"):
        raise LFMError(f"{folder}: its dataset names no environment; make one with robomimic's EnvUtils")
    kwargs = {**env_args.get("env_kwargs", {}), **env_kwargs}
    if description["spec"]["action_space"]["representation"] == "absolute":
        kwargs["controller_configs"] = _absolute(kwargs.get("controller_configs"), folder)
    keys = [key for key, _ in description["spec"]["observation"]]
    obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": keys, "rgb": []}}])
    return env_utils.create_env_from_metadata(env_meta={**env_args, "env_kwargs": kwargs})


def _newest(ob: Mapping[str, Any], key: str, dim: int) -> np.ndarray:
    if key not in ob:
        raise LFMError(f"observation: key '{key}' is missing; there are {', '.join(sorted(ob))}")
    value = np.asarray(ob[key])
    return value[-1] if value.ndim == 2 and value.shape[1] == dim else value


def _absolute(config: Any, folder: Path) -> dict[str, Any]:
    """robosuite 1.5's composite config with every arm taking absolute actions."""
    if not isinstance(config, Mapping) or "body_parts" not in config:
        raise LFMError(
            f"{folder}: its dataset has no composite controller config, which absolute actions need; "
            "give controller_configs=…"
        )
    parts = {
        name: {**part, "input_type": "absolute"} if str(part.get("type", "")).startswith("OSC") else part
        for name, part in config["body_parts"].items()
    }
    return {**config, "body_parts": parts}
