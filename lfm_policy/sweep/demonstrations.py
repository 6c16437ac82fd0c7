"""The demonstrations that a sweep has made, held against what its config asks for now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lfm_policy.data.hdf5 import ATTEMPTS, SOURCE, demo_names, open_hdf5, read_env_args, seed_ranges
from lfm_policy.data.robomimic import env_id_of
from lfm_policy.evaluation.environment import without_module
from lfm_policy.evaluation.report import common
from lfm_policy.flow import LFMError
from lfm_policy.sweep.plan import TaskConfig


def check_made(name: str, path: Path, task: TaskConfig, env_id: str) -> None:
    """LFMError naming every field in which the file at `path` is not what the sweep's task `name` would make now.

    Recordings are told apart by their names. A file that was neither collected nor converted is the user's own, of
    which the environment alone is held against `task`.
    """
    try:
        changed = list(_differences(path, task, env_id))
    except LFMError as error:
        raise LFMError(f"tasks.{name}: {error}") from error
    if changed:
        raise LFMError(
            f"tasks.{name}: {path} was made with other settings ({'; '.join(changed)}); undo that, or remove the file "
            "and the runs trained on it"
        )


def check_seeds(path: Path, seeds: range) -> None:
    """LFMError where rollouts on `seeds` would start as demonstrations of the file at `path` did."""
    with open_hdf5(path) as file:
        recorded = seed_ranges(file, demo_names(file))
    for first, last in recorded:
        if both := common(range(first, last + 1), seeds):
            told = f"{path} was recorded on seeds {both[0]} to {both[-1]}, which would be rolled out"
            raise LFMError(f"rollout_seed: {seeds.start}: {told}; choose another")


def _differences(path: Path, task: TaskConfig, env_id: str) -> Iterator[str]:
    with open_hdf5(path) as file:
        attrs, n = file["data"].attrs, len(demo_names(file))
        made_for = env_id_of(read_env_args(file), path)
        source, is_collected = attrs.get(SOURCE), ATTEMPTS in attrs
    if without_module(made_for) != without_module(env_id):
        yield f"task: was {made_for}, now {env_id}"
    wanted = None if task.source is None else Path(task.source).name
    if (source or is_collected) and source != wanted:
        yield f"source: was {source or 'none'}, now {wanted or 'none'}"
    if is_collected and task.source is None and n != task.n_demonstrations:
        yield f"n_demonstrations: was {n}, now {task.n_demonstrations}"
