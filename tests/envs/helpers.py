"""Short ways to run episodes and compare what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np


def flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """All of an observation as one vector."""
    return np.concatenate(list(observation.values()))


def random_actions(env: Any, n: int, seed: int = 0) -> np.ndarray:
    """Actions drawn from the whole of the delta range, (n, A)."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, env.action_space.shape[0]))


def trajectory(env: Any, actions: np.ndarray, **reset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Observations (n + 1, D) and simulator states (n + 1, S) of an episode with the given actions."""
    observation, _ = env.reset(**reset)
    observations, states = [flat(observation)], [env.unwrapped.get_state()["states"]]
    for action in actions:
        observation = env.step(action)[0]
        observations.append(flat(observation))
        states.append(env.unwrapped.get_state()["states"])
    return np.array(observations), np.array(states)


def demonstration(env: Any, seed: int, expert_seed: int | None = None) -> dict[str, np.ndarray]:
    """An episode of the expert of `expert_seed`, by default of `seed`.

    Actions and actions_abs (T, 7), success after each (T,), states (T + 1, S).
    """
    env.reset(seed=seed)
    expert = env.unwrapped.make_expert(seed if expert_seed is None else expert_seed)
    states, actions, actions_abs, success = [env.unwrapped.get_state()["states"]], [], [], []
    truncated = False
    while not (expert.done or truncated):
        actions.append(expert.act())
        _, _, _, truncated, info = env.step(actions[-1])
        actions_abs.append(info["actions_abs"])
        success.append(info["is_success"])
        states.append(env.unwrapped.get_state()["states"])
    lists = {"actions": actions, "actions_abs": actions_abs, "success": success, "states": states}
    return {key: np.array(value) for key, value in lists.items()}


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process, without the OpenGL settings this one may have got from robosuite."""
    inherited = {key: os.environ[key] for key in os.environ if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    command = [sys.executable, "-c", code]
    environment = inherited | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
