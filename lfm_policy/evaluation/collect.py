"""Collected demonstrations of a scripted expert: the first n successes over consecutive seeds."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from tqdm import tqdm

from lfm_policy.data.writer import DatasetWriter
from lfm_policy.evaluation.environment import Described, EnvSpec, env_name, horizon, is_success, observe
from lfm_policy.evaluation.executor import map_seeds
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar

MIN_SUCCESS_RATE = 0.1
# attempts allowed for each success wanted: what the rate above leads to
MAX_ATTEMPTS = 10
# what is recorded of every step where the environment offers it
STEP_SOURCES = {"states": "state", "gripper_action": "state", "actions_abs": "info"}


@dataclass
class Demonstration:
    """One attempt of T steps; `datasets` are arguments of `DatasetWriter.add_episode`, {} for a failure."""

    seed: int
    success: bool
    length: int
    env_args: dict[str, Any]
    datasets: dict[str, Any]


@dataclass(frozen=True)
class Collected:
    """What a recording came to."""

    path: Path
    n_episodes: int
    n_frames: int
    n_attempts: int
    seconds: float


class Expert(Protocol):
    """What demonstrates: its next action from what it knows of the environment, until it is done."""

    @property
    def done(self) -> bool: ...
    def act(self) -> Any: ...


@dataclass(frozen=True)
class CollectJob:
    """All that a process needs to record; called in that process it gives the task.

    expert: "module:function", called with the environment (a `Described`) and a seed; "" takes the
    environment's own `make_expert`.
    """

    env: EnvSpec
    expert: str = ""

    def __call__(self) -> CollectTask:
        return CollectTask(self)


class CollectTask:
    """An environment with an expert; called with a seed, the demonstration."""

    def __init__(self, job: CollectJob) -> None:
        self.job, self.env = job, job.env.make()
        self.limit = horizon(self.env)
        if job.expert:
            self.make_expert = _imported(job.expert)
            return
        inner: Any = self.env.unwrapped
        if not hasattr(inner, "make_expert"):
            raise LFMError(
                f"environment {job.env.env_id}: offers no make_expert, so nothing can be collected from it; "
                "name one with --expert module:function"
            )
        self.make_expert = lambda env, seed: inner.make_expert(seed)
        # without its wrappers, which forbid to go on after success
        self.env = Described(inner, job.env.observation, job.env.success_key)

    def __call__(self, seed: int) -> Demonstration:
        demonstration = demonstrate(self.env, self.make_expert, seed, self.limit, bool(self.job.expert))
        own = getattr(self.env.unwrapped, "env_args", None)
        return replace(demonstration, env_args=own or self.job.env.env_args(self.env))

    def close(self) -> None:
        self.env.close()


def demonstrate(
    env: gymnasium.Env,
    make_expert: Callable[[gymnasium.Env, int], Expert],
    seed: int,
    limit: int | None = None,
    ends: bool = False,
) -> Demonstration:
    """Let an expert act from the first state of `seed` until it is done, or at the limit.

    A success is one that still holds at the last step: an expert goes on for a while after reaching it, so
    that a policy learns to hold what it has reached. `ends` stops where the environment says so, too.
    """
    inner: Any = env.unwrapped
    observation, _ = env.reset(seed=seed)
    read_state: Callable[[], dict[str, Any]] = getattr(inner, "get_state", dict)
    steps, over = _Steps(read_state()), False
    try:
        expert = make_expert(env, seed)
    except ValueError as error:
        told = str(error).removeprefix(f"{env_name(env)}: ")
        raise LFMError(f"environment {env_name(env)}: {told}") from error
    while not (expert.done or over) and (limit is None or len(steps) < limit):
        state = read_state()
        action = np.array(expert.act(), dtype=env.action_space.dtype)
        after, reward, terminated, truncated, info = env.step(action)
        steps.append(observe(observation), action, float(reward), state, info)
        observation, over = after, ends and (terminated or truncated)
    success = bool(steps.dones) and steps.dones[-1]
    datasets = steps.datasets(seed, observe(observation)) if success else {}
    return Demonstration(seed, success, len(steps), {}, datasets)


def _imported(path: str) -> Callable[[gymnasium.Env, int], Expert]:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise LFMError(f"--expert {path}: cannot be imported ({error}); give module:function") from error


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
        self.dones.append(is_success(info))
        self.rows["actions"].append(action)
        for key, source in STEP_SOURCES.items():
            values = state if source == "state" else info
            if key in values:
                self.rows[key].append(np.array(values[key]))

    def datasets(self, seed: int, final: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The arguments of `DatasetWriter.add_episode`."""
        attrs: dict[str, Any] = {"seed": seed}
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


def record_demonstrations(
    path: str | Path,
    env: EnvSpec,
    n: int,
    *,
    expert: str = "",
    n_procs: int = 1,
    seed: int = 0,
    valid_fraction: float = 0.1,
    overwrite: bool = False,
    max_attempts: int | None = None,
    progress: bool = False,
) -> Collected:
    """Write the first `n` successes over the seeds `seed`, `seed + 1`, … to a robomimic dataset.

    expert: see `CollectJob`. The datasets do not depend on `n_procs`.
    LFMError, and nothing is written, if fewer than a tenth of at least max(20, n) attempts succeed, or
    `max_attempts` (default 10 n) do not suffice.
    """
    begin = time.perf_counter()
    limit = max_attempts or MAX_ATTEMPTS * n
    results = map_seeds(CollectJob(env, expert), range(seed, seed + limit), n_procs)
    with contextlib.closing(results), progress_bar("demonstrations", n, progress) as bar:
        successes = _successes(results, env.env_id, n, bar)
        last = next(successes)
        options: dict[str, Any] = {"valid_fraction": valid_fraction, "seed": seed}
        with DatasetWriter(path, last.env_args, overwrite=overwrite, **options) as writer:
            writer.add_episode(**last.datasets)
            for last in successes:
                writer.add_episode(**last.datasets)
    attempts, seconds = last.seed - seed + 1, time.perf_counter() - begin
    return Collected(Path(path), writer.n_episodes, writer.n_frames, attempts, seconds)


def _successes(results: Iterable[Demonstration], env_id: str, n: int, bar: tqdm[Any]) -> Iterator[Demonstration]:
    """The first n successes; LFMError if they are too rare or do not come."""
    successes = attempts = 0
    for attempts, demonstration in enumerate(results, 1):
        successes += demonstration.success
        bar.set_postfix_str(f"success {successes}/{attempts}", refresh=False)
        if demonstration.success:
            bar.update()
            yield demonstration
        if successes == n:
            return
        _check_rate(env_id, successes, attempts, n)
    raise LFMError(
        f"environment {env_id}: {successes} of {attempts} attempts succeeded, {n} wanted; "
        "raise --max_attempts or lower --n; nothing written"
    )


def _check_rate(env_id: str, successes: int, attempts: int, n: int) -> None:
    if attempts >= max(20, n) and successes < MIN_SUCCESS_RATE * attempts:
        raise LFMError(
            f"environment {env_id}: its expert succeeded in {successes} of {attempts} attempts, fewer than "
            f"{MIN_SUCCESS_RATE:.0%}; nothing written"
        )
