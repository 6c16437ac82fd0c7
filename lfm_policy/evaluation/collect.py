"""Collected demonstrations of a scripted expert: the first n successes over consecutive seeds."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
from tqdm import tqdm

from lfm_policy.data.hdf5 import ATTEMPTS, COLLECTED
from lfm_policy.data.plugins import register_environments
from lfm_policy.data.writer import DatasetWriter, UnfitEpisode, refuse_existing
from lfm_policy.evaluation.attempts import ANEW, Attempts, CannotGoOn, keeping_attempts
from lfm_policy.evaluation.collected import Collected
from lfm_policy.evaluation.demonstration import Attempt, Demonstration, Expert, demonstrate
from lfm_policy.evaluation.environment import EnvSpec, env_name, horizon
from lfm_policy.evaluation.executor import Executor, map_seeds
from lfm_policy.flow.errors import LFMError, one_line
from lfm_policy.progress import progress_bar
from lfm_policy.provenance import SIMULATION, provenance, versions_of

MIN_SUCCESS_RATE = 0.1
# attempts allowed for each success wanted: what the rate above leads to
MAX_ATTEMPTS = 10
# attempts that all raise are a fault of the expert's code
MAX_RAISED = 5
# seeds are kept as 64-bit numbers, and others follow the first
MAX_SEED = 2**62
# the form of robomimic's `actions`, from which training makes others
RECORDED_ROTATION = "axis_angle"
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
        inner: Any = self.env.unwrapped
        rotation = (getattr(inner, "action_convention", None) or {}).get("rotation", RECORDED_ROTATION)
        if rotation != RECORDED_ROTATION:
            raise LFMError(
                f"environment {job.env.env_id}: rotation {rotation!r} is no form of a dataset's actions; leave it out "
                "(data.rotation of the training makes it of the recorded ones)"
            )
        if not job.expert and not hasattr(inner, "make_expert"):
            raise LFMError(
                f"environment {job.env.env_id}: offers no make_expert, so nothing can be collected from it; {NAME_ONE}"
            )
        self.make_expert = _imported(job.expert) if job.expert else _own_expert

    def __call__(self, seed: int) -> Demonstration:
        begin = time.process_time()
        demonstration = demonstrate(self.env, self.make_expert, seed, self.limit, bool(self.job.expert))
        env_args = self.job.env.env_args(self.env)
        return replace(demonstration, env_args=env_args, core_seconds=time.process_time() - begin)

    def close(self) -> None:
        """Let go of the environment."""
        self.env.close()


def _own_expert(env: gymnasium.Env, seed: int) -> Expert:
    """The environment's; it says with a NotImplementedError that there is none for these settings."""
    inner: Any = env.unwrapped
    try:
        return inner.make_expert(seed)
    except NotImplementedError as error:
        told = str(error).removeprefix(f"{env_name(env)}: ")
        raise LFMError(f"environment {env_name(env)}: {told}") from error


def _imported(path: str) -> Callable[[gymnasium.Env, int], Expert]:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    # whatever the code of somebody else may raise as it is read
    except Exception as error:
        raise LFMError(
            f"--expert {path}: cannot be imported ({one_line(error)}); give module:function, of a module in "
            "this folder or installed"
        ) from error


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
    The file says in `data.attrs["collected"]` with which settings and versions it was made.
    LFMError, and no file, if fewer than a tenth of at least max(20, n) attempts succeed, or `max_attempts` (default
    10 n) do not suffice; the attempts are kept.
    """
    begin, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    path, executor, job = Path(path), Executor.of(n_procs), CollectJob(env, expert)
    max_attempts = MAX_ATTEMPTS * n if max_attempts is None else max_attempts
    _check_numbers(n, max_attempts, seed, valid_fraction)
    refuse_existing(path, overwrite)
    seeds, settings = range(seed, seed + max_attempts), decisive_settings(job, seed)
    with keeping_attempts(path, settings, resume, overwrite) as kept:
        n_kept = len(kept.seeds() & set(seeds))
        with contextlib.closing(_attempted(kept, job, seeds, executor)) as outcomes:
            bar = progress_bar("demonstrations", n, progress)
            attempts = _until_enough(outcomes, env.env_id, n, bar)
        options = {"overwrite": overwrite, "valid_fraction": valid_fraction, "seed": seed}
        n_frames = _write(path, kept, attempts, settings, **options)
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


def _check_numbers(n: int, max_attempts: int, seed: int, valid_fraction: float) -> None:
    for option, value in {"n": n, "max_attempts": max_attempts}.items():
        if value < 1:
            raise LFMError(f"--{option} {value}: must be 1 or more")
    if not 0 <= seed < MAX_SEED:
        raise LFMError(f"--seed {seed}: must be 0 or more, and below 2^62")
    if not 0 <= valid_fraction < 1:
        raise LFMError(f"--valid_fraction {valid_fraction}: must be 0 or more and below 1")


def decisive_settings(job: CollectJob, seed: int) -> dict[str, Any]:
    """What decides an attempt beside its own seed; `seed` is the first."""
    return {
        "env_id": job.env.env_id,
        "env_kwargs": dict(job.env.env_kwargs),
        "observation": dict(job.env.observation),
        "success_key": job.env.success_key,
        "expert": job.expert,
        "seed": seed,
        **({"file of the expert": _file_hash(job.expert)} if job.expert else {}),
        **{f"version of {package}": version for package, version in versions_of(SIMULATION).items()},
    }


def _file_hash(expert: str) -> str | None:
    """A hash of the file of the module that `expert` names; None for what cannot be found, which is told later."""
    register_environments()
    try:
        spec = importlib.util.find_spec(expert.partition(":")[0])
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12] if spec and spec.origin else None
    # a parent package is imported on the way
    except Exception:
        return None


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
    raise CannotGoOn(
        f"environment {env_id}: {successes} of {len(attempts)} attempts succeeded, {n} wanted{_last_error(attempts)}; "
        "add --resume true, and raise --max_attempts or lower --n"
    )


def _check_rate(env_id: str, attempts: Sequence[Attempt], n: int) -> None:
    if len(attempts) == MAX_RAISED and all(attempt.error for attempt in attempts):
        raise CannotGoOn(
            f"environment {env_id}: its expert raised in each of {MAX_RAISED} attempts{_last_error(attempts)}; "
            f"mend the expert, then {ANEW}"
        )
    if len(attempts) < max(20, n):
        return
    successes = sum(attempt.success for attempt in attempts)
    if successes < MIN_SUCCESS_RATE * len(attempts):
        raise CannotGoOn(
            f"environment {env_id}: its expert succeeded in {successes} of {len(attempts)} attempts, fewer than "
            f"{MIN_SUCCESS_RATE:.0%}{_last_error(attempts)}; mend the expert, then {ANEW}"
        )


def _last_error(attempts: Sequence[Attempt]) -> str:
    """The last exception of an expert, to be told beside its rate."""
    return next((f"; seed {attempt.seed}: {attempt.error}" for attempt in reversed(attempts) if attempt.error), "")


def _write(path: Path, kept: Attempts, attempts: Sequence[Attempt], settings: Mapping[str, Any], **options: Any) -> int:
    """Write the successes among the attempts to a dataset; its frames."""
    seeds = [attempt.seed for attempt in attempts if attempt.success]
    failed = [attempt.seed for attempt in attempts if not attempt.success]
    # as text: an attribute of numbers has a limit of 64 kB
    attrs = {ATTEMPTS: len(attempts), "failed_seeds": json.dumps(failed), COLLECTED: json.dumps(settings)}
    env_args = kept.read(seeds[0]).env_args
    with DatasetWriter(path, env_args, attrs=attrs, folder=kept.folder, **options) as writer:
        for seed in seeds:
            try:
                writer.add_episode(**kept.read(seed).datasets)
            except UnfitEpisode as error:
                told = f"seed {seed} (the first episode's is {seeds[0]}): {error}"
                raise CannotGoOn(f"{told}; mend the expert or its environment, then {ANEW}") from error
    return writer.n_frames
