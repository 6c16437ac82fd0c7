"""`lfm collect`: record demonstrations of an environment's scripted expert."""

from __future__ import annotations

from typing import Any

from lfm_policy.flow.errors import LFMError


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
) -> int:
    """Record successful episodes of an environment's scripted expert, in robomimic's HDF5 layout.

    Args:
        out: file to write.
        task: task name (Lift), or the gymnasium id of any environment with an expert (lfm/Lift-v0).
        n: number of successful episodes to write.
        n_procs: processes; the file does not depend on it.
        seed: seed of the first attempt; the others follow.
        valid_fraction: share of the episodes that mask/valid names, the rest being mask/train.
        overwrite: replace the file if it exists.
        max_attempts: attempts after which to give up; default is ten times n.
        env_kwargs: arguments of the environment, {size: 3}.
        observation: what to record, key to the columns it has in the environment, {hand: "state[0:3]"}.
        success_key: what the environment calls success, or terminated; default is is_success or success.
        expert: module:function, called with environment and seed; default is the environment's own.
    """
    from lfm_policy.evaluation.files import check_outputs

    check_outputs({"out": out}, overwrite)
    for option, value in {"n": n, "n_procs": n_procs, "max_attempts": max_attempts}.items():
        if value is not None and value < 1:
            raise LFMError(f"--{option} {value}: must be 1 or more")
    if seed < 0:
        raise LFMError(f"--seed {seed}: must be 0 or more")
    if not 0 <= valid_fraction < 1:
        raise LFMError(f"--valid_fraction {valid_fraction}: must be 0 or more and below 1")

    from lfm_policy.evaluation.collect import record_demonstrations
    from lfm_policy.evaluation.environment import EnvSpec

    recording = record_demonstrations(
        out,
        EnvSpec(env_id_of_task(task), env_kwargs or {}, observation or {}, success_key),
        n,
        expert=expert,
        n_procs=n_procs,
        seed=seed,
        valid_fraction=valid_fraction,
        overwrite=overwrite,
        max_attempts=max_attempts,
        progress=True,
    )
    megabytes = recording.path.stat().st_size / 1e6
    mean = recording.n_frames / recording.n_episodes
    print(
        f"{out}: {recording.n_episodes} demonstrations of {mean:.1f} steps on average, "
        f"from {recording.n_attempts} attempts; {megabytes:.1f} MB, {recording.seconds:.0f} s"
    )
    return 0


def env_id_of_task(task: str) -> str:
    """The gymnasium id of a task's name; an id stays itself."""
    return task if "/" in task or ":" in task or "-v" in task else f"lfm/{task}-v0"
