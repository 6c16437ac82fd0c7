"""Rollouts of a policy over seeds, in one process or several, and what they add up to."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from lfm_policy.evaluation.environment import EnvSpec, check_fit
from lfm_policy.evaluation.episode import Actor, Episode, Row, Trajectory, run_episode
from lfm_policy.evaluation.executor import Executor, map_seeds
from lfm_policy.evaluation.report import checkpoint_identity, seen_seeds
from lfm_policy.evaluation.statistics import summarise
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar
from lfm_policy.provenance import provenance

# Evaluation seeds begin here, collection seeds at 0: no rollout starts where a demonstration did.
FIRST_SEED = 100_000

PolicySource = Callable[[], Actor]


@dataclass(frozen=True)
class Evaluation:
    """Rollouts and their summary.

    episodes: one row a seed, in the order of the seeds. summary: see `statistics.summarise`, and nfe and
    multiply_adds per chunk. context: command, checkpoint, versions, hardware, times, seeds, and which of these its
    demonstrations were recorded on. job: how to run one of them again. trajectories: of the episodes that were
    recorded, by seed.
    """

    episodes: list[Row]
    summary: dict[str, Any]
    context: dict[str, Any]
    job: RolloutJob = field(repr=False)
    trajectories: dict[int, Trajectory] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """What is written to the results file; the rows come last."""
        return {**self.context, **self.summary, "episodes": self.episodes}


@dataclass(frozen=True)
class CheckpointSource:
    """A policy by its checkpoint's folder, sampled by what solver, steps and temperature are given."""

    folder: Path
    solver: str | None = None
    solver_steps: int | None = None
    temperature: float | None = None

    def __call__(self) -> Actor:
        from lfm_policy.policy import load_policy

        policy = load_policy(self.folder)
        sampler = (self.solver, self.solver_steps, self.temperature)
        if sampler == (None, None, None):
            return policy
        try:
            return policy.set_sampler(*sampler)
        except LFMError as error:
            raise LFMError(f"{self.folder}: {error}") from error


@dataclass(frozen=True)
class RolloutJob:
    """All that a process needs to roll out; called in that process it gives the task."""

    source: PolicySource
    origin: str
    env: EnvSpec
    max_steps: int | None = None
    recorded: frozenset[int] = frozenset()
    fps: int = 20

    def make_env(self, **overrides: Any) -> gymnasium.Env:
        """The job's environment, with its time limit moved if the job says so."""
        limit = {} if self.max_steps is None else {"max_episode_steps": self.max_steps}
        return self.env.make(**limit, **overrides)

    def __call__(self) -> RolloutTask:
        return RolloutTask(self)


class RolloutTask:
    """A policy and an environment that fit each other; called with a seed, the episode."""

    def __init__(self, job: RolloutJob) -> None:
        self.job = job
        self.policy = job.source()
        self.env = job.make_env()
        check_fit(self.policy.spec, self.env, job.origin)
        # the first call of a network allocates and tunes: latencies shall not hold that
        self.policy.reset(0)
        self.policy.act({key: np.zeros(dim, np.float32) for key, dim in self.policy.spec.observation})

    def __call__(self, seed: int) -> Episode:
        record = seed in self.job.recorded
        return run_episode(self.policy, self.env, seed, self.job.max_steps, record=record)

    def close(self) -> None:
        self.env.close()


def evaluate(
    checkpoint_path: str | Path,
    n_rollouts: int,
    seed: int = FIRST_SEED,
    n_procs: int | Executor = 1,
    env: EnvSpec | None = None,
    max_steps: int | None = None,
    solver: str | None = None,
    solver_steps: int | None = None,
    temperature: float | None = None,
    n_recorded: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Roll a checkpoint out on the seeds `seed` … `seed + n_rollouts - 1`, over `n_procs` processes or an `Executor`.

    The environment is the checkpoint's own; what `env` tells overrules it. Rows do not depend on `n_procs`
    (measured times aside): each process acts in one environment at a time, with one thread. The
    first `n_recorded` episodes keep their trajectories.
    Raises LFMError where checkpoint and environment do not fit, and with the seed where an episode fails.
    """
    from lfm_policy.policy import find_checkpoint
    from lfm_policy.policy.serialization import read_description

    # resolved once: training may write a newer one while workers start
    folder = find_checkpoint(checkpoint_path)
    source, executor = CheckpointSource(folder, solver, solver_steps, temperature), Executor.of(n_procs)
    policy = source()
    # workers of other machines start elsewhere
    elsewhere = None if executor.in_process else replace(source, folder=folder.resolve())
    job = rollout_job(policy, str(folder), env, max_steps, elsewhere)
    seeds = range(seed, seed + n_rollouts)
    evaluation = _evaluate(job, policy, seeds, executor, n_recorded, progress, checkpoint_identity(folder, policy))
    seen = seen_seeds(read_description(folder), job.env.env_id, seeds)
    return replace(evaluation, context={**evaluation.context, "seen_seeds": seen})


def evaluate_policy(
    policy: Actor,
    seeds: Sequence[int],
    n_procs: int | Executor = 1,
    env: EnvSpec | None = None,
    max_steps: int | None = None,
    n_recorded: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Roll out a policy that is in memory, as training does; beyond this process it must pickle."""
    job = rollout_job(policy, "the policy", env, max_steps)
    executor = Executor.of(n_procs)
    return _evaluate(job, policy, seeds, executor, n_recorded, progress, {"spec": policy.spec.to_dict()})


def rollout_job(
    policy: Actor,
    origin: str,
    env: EnvSpec | None = None,
    max_steps: int | None = None,
    source: PolicySource | None = None,
) -> RolloutJob:
    """How to roll `policy` out: in its own environment but for what is given; workers use `source`."""
    if max_steps is not None and max_steps < 1:
        raise LFMError(f"--max_steps {max_steps}: must be 1 or more")
    env = (env or EnvSpec()).over(EnvSpec.of_policy(policy.spec))
    if not env.env_id:
        raise LFMError(f"{origin}: names no environment; give --env_id")
    fps = policy.spec.action_space.control_freq
    return RolloutJob(source or partial(_itself, policy), origin, env, max_steps, fps=fps)


def _evaluate(
    job: RolloutJob,
    policy: Actor,
    seeds: Sequence[int],
    executor: Executor,
    n_recorded: int,
    progress: bool,
    checkpoint: dict[str, Any],
) -> Evaluation:
    if not seeds:
        raise LFMError("--n_rollouts 0: must be 1 or more")
    started, begin = datetime.datetime.now(datetime.UTC), time.perf_counter()
    job = replace(job, recorded=frozenset(seeds[:n_recorded]))
    with one_thread(), contextlib.closing(map_seeds(job, seeds, executor)) as results:
        episodes = _collected(results, len(seeds), progress)
    rows = [episode.row for episode in episodes]
    latencies = [seconds for episode in episodes for seconds in episode.latencies]
    return Evaluation(
        episodes=rows,
        summary={**summarise(rows, latencies), "nfe": policy.nfe, "multiply_adds": policy.multiply_adds},
        context={
            **provenance(),
            "checkpoint": checkpoint,
            "env_id": job.env.env_id,
            "max_steps": job.max_steps,
            "seeds": list(seeds),
            "executor": executor.kind,
            "n_procs": executor.n_procs,
            "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - begin, 3),
        },
        job=job,
        trajectories={
            episode.row["seed"]: episode.trajectory for episode in episodes if episode.trajectory is not None
        },
    )


def _collected(results: Iterator[Episode], total: int, progress: bool) -> list[Episode]:
    episodes: list[Episode] = []
    with progress_bar("rollouts", total, progress) as bar:
        for episode in results:
            episodes.append(episode)
            successes = sum(done.row["success"] for done in episodes)
            bar.set_postfix_str(f"success {successes}/{len(episodes)}", refresh=False)
            bar.update()
    return episodes


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread herein, as it does in worker processes: sums come out the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _itself(policy: Actor) -> Actor:
    return policy
