"""Collected demonstrations of a scripted expert: the first n successes over consecutive seeds."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
from tqdm import tqdm

from lfm_policy.data.hdf5 import ATTEMPTS
from lfm_policy.data.writer import DatasetWriter, refuse_existing
from lfm_policy.evaluation.attempts import ANEW, Attempts, TooFewSucceed, keeping_attempts
from lfm_policy.evaluation.collected import Collected
from lfm_policy.evaluation.demonstration import Attempt, Demonstration, Expert, demonstrate
from lfm_policy.evaluation.environment import EnvSpec, horizon
from lfm_policy.evaluation.executor import Executor, map_seeds
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar
from lfm_policy.provenance import SIMULATION, provenance, versions_of

MIN_SUCCESS_RATE = 0.1
# attempts allowed for each success wanted: what the rate above leads to
MAX_ATTEMPTS = 10
# attempts that all raise are a fault of the expert's code
MAX_RAISED = 5
# a remedy, which a command with other options replaces by its own
NAME_ONE = "name one with --expert module:function"


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
                f"environment {job.env.env_id}: offers no make_expert, so nothing can be collected from it; {NAME_ONE}"
            )
        self.make_expert = lambda env, seed: inner.make_expert(seed)

    def __call__(self, seed: int) -> Demonstration:
        begin = time.process_time()
        demonstration = demonstrate(self.env, self.make_expert, seed, self.limit, bool(self.job.expert))
        env_args = self.job.env.env_args(self.env)
        return replace(demonstration, env_args=env_args, core_seconds=time.process_time() - begin)

    def close(self) -> None:
        """Let go of the environment."""
        self.env.close()


def _imported(path: str) -> Callable[[gymnasium.Env, int], Expert]:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise LFMError(f"--expert {path}: cannot be imported ({error}); give module:function") from error


def record_demonstrations(
    path: str | Path,
    env: EnvSpec,
    n: int,
    *,
    expert: str = "",
    n_procs: int | Executor = 1,
    seed: int = 0,
    valid_fraction: float = 0.1,
    overwrite: bool = False,
    resume: bool = False,
    max_attempts: int | None = None,
    progress: bool = False,
) -> Collected:
    """Write the first `n` successes over the seeds `seed`, `seed + 1`, … to a robomimic dataset.

    expert: see `CollectJob`. n_procs: processes, or an `Executor`; the file does not depend on it. Finished
    attempts are kept in `<path>.attempts` until the file is written; `resume` goes on from those of an interrupted
    call, to the same file, where environment, expert, seed and versions are the same.
    LFMError, and no file, if fewer than a tenth of at least max(20, n) attempts succeed, or `max_attempts` (default
    10 n) do not suffice; the attempts are kept.
    """
    begin, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    path, executor, job = Path(path), Executor.of(n_procs), CollectJob(env, expert)
    refuse_existing(path, overwrite)
    seeds = range(seed, seed + (max_attempts or MAX_ATTEMPTS * n))
    with keeping_attempts(path, decisive_settings(job, seed), resume, overwrite) as kept:
        n_kept = len(kept.seeds() & set(seeds))
        with contextlib.closing(_attempted(kept, job, seeds, executor)) as outcomes:
            bar = progress_bar("demonstrations", n, progress)
            attempts = _until_enough(outcomes, env.env_id, n, bar)
        n_frames = _write(path, kept, attempts, overwrite=overwrite, valid_fraction=valid_fraction, seed=seed)
    seconds = time.perf_counter() - begin
    return Collected(
        path=path,
        attempts=tuple(attempts),
        n_frames=n_frames,
        seconds=seconds,
        n_kept=n_kept,
        context={
            **provenance(),
            "env_id": env.env_id,
            "expert": expert,
            "executor": executor.kind,
            "n_procs": executor.n_procs,
            "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(seconds, 3),
        },
    )


def decisive_settings(job: CollectJob, seed: int) -> dict[str, Any]:
    """What decides an attempt beside its own seed; `seed` is the first."""
    return {
        "env_id": job.env.env_id,
        "env_kwargs": dict(job.env.env_kwargs),
        "observation": dict(job.env.observation),
        "success_key": job.env.success_key,
        "expert": job.expert,
        "seed": seed,
        **{f"version of {package}": version for package, version in versions_of(SIMULATION).items()},
    }


def _attempted(kept: Attempts, job: CollectJob, seeds: Sequence[int], executor: Executor) -> Generator[Attempt]:
    """What the attempts came to, in the order of the seeds; those that are not kept yet are made."""
    found = kept.seeds()
    missing = [seed for seed in seeds if seed not in found]
    with contextlib.closing(map_seeds(job, missing, executor, kept.write)) as made:
        for seed in seeds:
            if seed not in found:
                next(made)
            yield kept.outcome(seed)


def _until_enough(outcomes: Iterator[Attempt], env_id: str, n: int, bar: tqdm[Any]) -> list[Attempt]:
    """The attempts up to the nth success; LFMError if successes are too rare or do not come."""
    attempts: list[Attempt] = []
    successes = 0
    with bar:
        for attempt in outcomes:
            attempts.append(attempt)
            successes += attempt.success
            bar.set_postfix_str(f"success {successes}/{len(attempts)}", refresh=False)
            bar.update(attempt.success)
            if successes == n:
                return attempts
            _check_rate(env_id, attempts, n)
    raise TooFewSucceed(
        f"environment {env_id}: {successes} of {len(attempts)} attempts succeeded, {n} wanted{_last_error(attempts)}; "
        "add --resume true, and raise --max_attempts or lower --n"
    )


def _check_rate(env_id: str, attempts: Sequence[Attempt], n: int) -> None:
    if len(attempts) == MAX_RAISED and all(attempt.error for attempt in attempts):
        raise TooFewSucceed(
            f"environment {env_id}: its expert raised in each of {MAX_RAISED} attempts{_last_error(attempts)}; "
            f"mend the expert, then {ANEW}"
        )
    if len(attempts) < max(20, n):
        return
    successes = sum(attempt.success for attempt in attempts)
    if successes < MIN_SUCCESS_RATE * len(attempts):
        raise TooFewSucceed(
            f"environment {env_id}: its expert succeeded in {successes} of {len(attempts)} attempts, fewer than "
            f"{MIN_SUCCESS_RATE:.0%}{_last_error(attempts)}; mend the expert, then {ANEW}"
        )


def _last_error(attempts: Sequence[Attempt]) -> str:
    """The last exception of an expert, to be told beside its rate."""
    return next((f"; seed {attempt.seed}: {attempt.error}" for attempt in reversed(attempts) if attempt.error), "")


def _write(path: Path, kept: Attempts, attempts: Sequence[Attempt], **options: Any) -> int:
    """Write the successes among the attempts to a dataset; its frames."""
    seeds = [attempt.seed for attempt in attempts if attempt.success]
    failed = [attempt.seed for attempt in attempts if not attempt.success]
    # as text: an attribute of numbers has a limit of 64 kB
    attrs = {ATTEMPTS: len(attempts), "failed_seeds": json.dumps(failed)}
    env_args = kept.read(seeds[0]).env_args
    with DatasetWriter(path, env_args, attrs=attrs, folder=kept.folder, **options) as writer:
        for seed in seeds:
            writer.add_episode(**kept.read(seed).datasets)
    return writer.n_frames
