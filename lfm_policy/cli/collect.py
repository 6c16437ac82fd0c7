"""`lfm collect`: record demonstrations of an environment's scripted expert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lfm_policy.evaluation.collected import Collected
    from lfm_policy.evaluation.demonstration import Attempt


# failed seeds that are printed; the results file has all
SHOWN = 10


def collect(
    out: str,
    task: str = "Lift",
    n: int = 200,
    n_procs: int = 1,
    seed: int = 0,
    valid_fraction: float = 0.1,
    overwrite: bool = False,
    max_attempts: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    observation: dict[str, str] | None = None,
    success_key: str = "",
    expert: str = "",
    json: str | None = None,
    resume: bool = False,
    executor: Literal["processes", "ray"] = "processes",
    ray_address: str | None = None,
) -> int:
    """Record successful episodes of an environment's scripted expert, in robomimic's HDF5 layout.

    Finished attempts are kept in the folder OUT.attempts until the file is written: after Ctrl-C or a crash the
    same command with --resume true goes on from there, to the same file.

    Args:
        out: file to write.
        task: Lift, Can, Square, ToolHang, Transport, or the gymnasium id of any environment with an expert.
        n: number of successful episodes to write.
        n_procs: processes, or workers of Ray; the file does not depend on it.
        seed: seed of the first attempt; the others follow.
        valid_fraction: share of the episodes that mask/valid names, the rest being mask/train.
        overwrite: replace the file if it exists.
        max_attempts: attempts after which to give up; default is ten times n.
        env_kwargs: arguments of the environment, {size: 3}.
        observation: what to record, key to the columns it has in the environment, {hand: "state[0:3]"}.
        success_key: what the environment calls success, or terminated; default is is_success or success.
        expert: module:function, called with environment and seed; default is the environment's own.
        json: file for results: a row for each attempt, rate, lengths, strategies, times, versions, hardware.
        resume: go on from the attempts that an interrupted command with the same settings has finished.
        executor: processes of this machine, or ray (pip install 'lfm_policy[ray]').
        ray_address: address of a running Ray cluster; default starts Ray on this machine for the command.
    """
    from lfm_policy.evaluation.files import check_outputs, write_json

    check_outputs({"out": out, "json": json}, overwrite)
    from lfm_policy.evaluation.attempts import attempts_folder
    from lfm_policy.evaluation.collect import record_demonstrations
    from lfm_policy.evaluation.environment import EnvSpec
    from lfm_policy.evaluation.executor import Executor

    try:
        collected = record_demonstrations(
            out,
            EnvSpec(env_id_of_task(task), env_kwargs or {}, observation or {}, success_key),
            n,
            expert=expert,
            n_procs=Executor(executor, n_procs, ray_address),
            seed=seed,
            valid_fraction=valid_fraction,
            overwrite=overwrite,
            resume=resume,
            max_attempts=max_attempts,
            progress=True,
        )
    except KeyboardInterrupt:
        if (folder := attempts_folder(Path(out))).exists():
            print(f"{folder}: keeps the finished attempts; go on with --resume true", file=sys.stderr)
        raise
    if json is not None:
        write_json(json, collected.to_json())
    print_collected(collected)
    if json is not None:
        print(f"written    {json}")
    return 0


def print_collected(collected: Collected) -> None:
    """Print what a collection came to, a line a subject."""
    summary = collected.summary()
    (low, high), lengths = summary["wilson95"], summary["lengths"]
    n, attempts = summary["n_success"], summary["n_attempts"]
    failed = [_failed(attempt) for attempt in collected.attempts if not attempt.success]
    megabytes = collected.path.stat().st_size / 1e6
    print(f"{collected.path}: {n} demonstrations, {collected.n_frames} frames, {megabytes:.1f} MB")
    rate = f"{n} of {attempts} attempts = {summary['success_rate']:.3f} (95 % {low:.3f} to {high:.3f})"
    print(f"success    {rate}")
    if failed:
        print(f"failed     seed {', '.join(failed[:SHOWN])}{', …' if len(failed) > SHOWN else ''}")
    spread = f"sd {lengths['sd']:.1f}, {lengths['min']} to {lengths['max']}, median {lengths['median']:.0f}"
    print(f"length     {lengths['mean']:.1f} steps on average, {spread}")
    for choice, counts in summary["strategies"].items():
        print(f"strategy   {choice}: " + ", ".join(f"{value} {count / n:.0%}" for value, count in counts.items()))
    cores = f"{summary['core_seconds_per_episode']:.2f} s of a core for each demonstration"
    if summary["n_kept"]:
        print(f"time       {collected.seconds:.1f} s beside {summary['n_kept']} attempts kept from before; {cores}")
    else:
        wall = summary["wall_seconds_per_episode"]
        print(f"time       {collected.seconds:.1f} s, {wall:.2f} s and {cores}")


def _failed(attempt: Attempt) -> str:
    return f"{attempt.seed} ({attempt.error})" if attempt.error else str(attempt.seed)


def env_id_of_task(task: str) -> str:
    """The gymnasium id of a task's name; an id stays itself."""
    return task if "/" in task or ":" in task or "-v" in task else f"lfm/{task}-v0"
