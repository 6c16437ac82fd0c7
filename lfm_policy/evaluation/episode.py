"""One rollout: a policy and an environment, from a seed to a row."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np

from lfm_policy.evaluation.environment import env_name, horizon, is_success, observe
from lfm_policy.flow.errors import LFMError
from lfm_policy.policy import PolicySpec

Row = dict[str, Any]


class Actor(Protocol):
    """What a rollout asks of a policy; see `lfm_policy.policy.Policy`."""

    @property
    def spec(self) -> PolicySpec: ...
    @property
    def nfe(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...
    @property
    def n_predictions(self) -> int: ...
    @property
    def chunk_seconds(self) -> list[float]: ...
    def reset(self, seed: int | None = None) -> None: ...
    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray: ...


@dataclass
class Trajectory:
    """Recorded of an episode of T steps: actions (T, Da), and named positions (T + 1, 2 or 3) in `unit`."""

    actions: np.ndarray
    positions: dict[str, np.ndarray]
    unit: str = "m"


@dataclass
class Episode:
    """A row of the results, the seconds each chunk took, and the trajectory if it was recorded."""

    row: Row
    latencies: list[float]
    trajectory: Trajectory | None = None


@dataclass
class _Recorder:
    actions: list[np.ndarray] = field(default_factory=list)
    positions: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def look(self, info: Mapping[str, Any]) -> None:
        for name, position in info.get("positions", {}).items():
            self.positions[name].append(np.array(position, dtype=np.float64))

    def trajectory(self, unit: str) -> Trajectory:
        positions = {name: np.stack(points) for name, points in self.positions.items()}
        return Trajectory(np.array(self.actions), positions, unit)


def run_episode(
    policy: Actor,
    env: gymnasium.Env,
    seed: int,
    max_steps: int | None = None,
    terminate_on_success: bool = True,
    record: bool = False,
    on_step: Callable[[gymnasium.Env], None] | None = None,
) -> Episode:
    """Roll one episode out; its seed alone decides the first state and the policy's noise.

    The row is `seed, success, steps, return, max_reward, chunks, nfe, policy_seconds, env_seconds`, every
    number a total over the episode; success means that the task's test was true at any step. `on_step` is
    called after the reset and after every step (to render). LFMError if an action is not finite, or the environment
    never tells success.
    """
    limit = max_steps or horizon(env)
    if limit is None:
        raise LFMError(f"environment {env_name(env)}: has no step limit; give --max_steps")
    recorder = _Recorder()
    begin = time.perf_counter()
    observation, info = env.reset(seed=seed)
    env_seconds, policy_seconds = time.perf_counter() - begin, 0.0
    policy.reset(seed)
    rewards: list[float] = []
    success, tells = False, False
    recorder.look(info)
    if on_step is not None:
        on_step(env)
    while len(rewards) < limit:
        begin = time.perf_counter()
        action = policy.act(observe(observation))
        middle = time.perf_counter()
        _check_action(action, seed, len(rewards))
        observation, reward, terminated, truncated, info = env.step(action.astype(env.action_space.dtype))
        policy_seconds += middle - begin
        env_seconds += time.perf_counter() - middle
        rewards.append(_check_reward(float(reward), seed, len(rewards)))
        told = is_success(info)
        success, tells = success or bool(told), tells or told is not None
        recorder.look(info)
        recorder.actions.append(action)
        if on_step is not None:
            on_step(env)
        if terminated or truncated or (success and terminate_on_success):
            break
    if not tells:
        raise LFMError(
            f"environment {env_name(env)}: told no success in an episode (neither is_success nor success); name the "
            "entry that does with --success_key, or the end of an episode, terminated"
        )
    row = {
        "seed": seed,
        "success": success,
        "steps": len(rewards),
        "return": sum(rewards),
        "max_reward": max(rewards),
        "chunks": policy.n_predictions,
        "nfe": policy.n_predictions * policy.nfe,
        "policy_seconds": round(policy_seconds, 6),
        "env_seconds": round(env_seconds, 6),
    }
    return Episode(
        row, list(policy.chunk_seconds), recorder.trajectory(env.metadata.get("position_unit", "m")) if record else None
    )


def reproducible(row: Row) -> Row:
    """A row without its measured times: what two runs of one seed have in common."""
    return {key: value for key, value in row.items() if not key.endswith("_seconds")}


def _check_action(action: np.ndarray, seed: int, step: int) -> None:
    if not np.isfinite(action).all():
        dimension = int(np.flatnonzero(~np.isfinite(action))[0])
        raise LFMError(
            f"seed {seed}: the policy's action is {action[dimension]} at step {step}, dimension {dimension}; "
            "its training diverged, or an observation is far outside the data"
        )


def _check_reward(reward: float, seed: int, step: int) -> float:
    if not math.isfinite(reward):
        raise LFMError(f"seed {seed}: the environment's reward is {reward} at step {step}; its simulation broke")
    return reward
