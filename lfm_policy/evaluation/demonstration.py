"""One attempt of a scripted expert, and all that is recorded of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np

from lfm_policy.data.writer import not_finite
from lfm_policy.evaluation.environment import is_success, observe
from lfm_policy.flow.errors import LFMError, one_line

# what is recorded of every step where the environment offers it
STEP_SOURCES = {"states": "state", "gripper_action": "state", "actions_abs": "info"}


@dataclass(frozen=True)
class Attempt:
    """What an attempt of `length` steps came to.

    strategy: which of several ways the expert chose, by the name of the choice; {} if it tells none.
    core_seconds: processor time that it took. error: the exception by which the expert gave up, "" if by none.
    """

    seed: int
    success: bool
    length: int
    strategy: dict[str, str] = field(default_factory=dict)
    core_seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Demonstration(Attempt):
    """An attempt and its recording: `datasets` are arguments of `DatasetWriter.add_episode`, {} for a failure."""

    env_args: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)


class Expert(Protocol):
    """What demonstrates: its next action from what it knows of the environment, until it is done.

    One that has chosen among several ways tells so in `strategy`, choice to value, once `act` was called.
    """

    @property
    def done(self) -> bool: ...
    def act(self) -> Any: ...


def demonstrate(
    env: gymnasium.Env,
    make_expert: Callable[[gymnasium.Env, int], Expert],
    seed: int,
    limit: int | None = None,
    ends: bool = False,
) -> Demonstration:
    """Let an expert act from the first state of `seed` until it is done, or at the limit.

    A success is one that still holds at the last step: an expert goes on for a while after reaching it, so
    that a policy learns to hold what it has reached. `ends` stops where the environment says so, too. An expert that
    raises as it is made or acts has failed, and so has an episode with a NaN; an LFMError, and what the environment
    raises, is raised.
    """
    inner: Any = env.unwrapped
    observation, _ = env.reset(seed=seed)
    read_state: Callable[[], dict[str, Any]] = getattr(inner, "get_state", dict)
    steps, over = _Steps(read_state()), False
    try:
        expert = make_expert(env, seed)
    except LFMError:
        raise
    except Exception as error:
        return Demonstration(seed, False, 0, error=one_line(error))
    while not over and (limit is None or len(steps) < limit):
        state = read_state()
        try:
            if expert.done:
                break
            action = np.array(expert.act(), dtype=env.action_space.dtype)
        except LFMError:
            raise
        except Exception as error:
            return Demonstration(seed, False, len(steps), _strategy(expert), error=one_line(error))
        after, reward, terminated, truncated, info = env.step(action)
        steps.append(observe(observation), action, float(reward), state, info)
        observation, over = after, ends and (terminated or truncated)
    success = bool(steps.dones) and steps.dones[-1]
    strategy = _strategy(expert)
    datasets = steps.datasets(seed, strategy, observe(observation)) if success else {}
    if fault := _not_finite(datasets):
        return Demonstration(seed, False, len(steps), strategy, error=fault)
    return Demonstration(seed, success, len(steps), strategy, datasets=datasets)


def _not_finite(datasets: Mapping[str, Any]) -> str:
    """Where a recording has a number that no dataset takes, "" if nowhere."""
    named = {**datasets, **{f"obs/{key}": values for key, values in datasets.get("obs", {}).items()}}
    named |= {f"next_obs/{key}": values[None] for key, values in datasets.get("final_obs", {}).items()}
    for name, values in named.items():
        if isinstance(values, np.ndarray) and (step := not_finite(values)) is not None:
            return f"{name} is NaN or infinite at step {step}"
    return ""


def _strategy(expert: Expert) -> dict[str, str]:
    return dict(getattr(expert, "strategy", {}))


class _Steps:
    """What is noted at every step, and from it the datasets of a demonstration."""

    def __init__(self, first_state: Mapping[str, Any]) -> None:
        self.first_state = first_state
        self.observations: list[dict[str, np.ndarray]] = []
        self.rewards: list[float] = []
        self.dones: list[bool] = []
        self.rows: dict[str, list[np.ndarray]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self.observations)

    def append(
        self,
        observation: dict[str, np.ndarray],
        action: np.ndarray,
        reward: float,
        state: Mapping[str, Any],
        info: Mapping[str, Any],
    ) -> None:
        """Observation and state are those before the action, reward and info those after it."""
        self.observations.append(observation)
        self.rewards.append(reward)
        self.dones.append(bool(is_success(info)))
        self.rows["actions"].append(action)
        for key, source in STEP_SOURCES.items():
            values = state if source == "state" else info
            if key in values:
                self.rows[key].append(np.array(values[key]))

    def datasets(self, seed: int, strategy: Mapping[str, str], final: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The arguments of `DatasetWriter.add_episode`."""
        attrs: dict[str, Any] = {"seed": seed}
        if strategy:
            attrs["strategy"] = json.dumps(strategy)
        if self.first_state.get("initial_joint") is not None:
            attrs["initial_joint"] = np.asarray(self.first_state["initial_joint"])
        return {
            "obs": {key: np.stack([row[key] for row in self.observations]) for key in final},
            "rewards": np.array(self.rewards),
            # robomimic's done_mode 2: every successful state, and the last in any case
            "dones": np.array([*self.dones[:-1], True]),
            "model_file": self.first_state.get("model_file"),
            "final_obs": dict(final),
            "attrs": attrs,
            **{key: np.stack(rows) for key, rows in self.rows.items()},
        }
