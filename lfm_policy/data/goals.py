"""Whether the dataset `actions` holds displacements or goals, and which dataset absolute actions are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfm_policy.data import hdf5
from lfm_policy.data.action_space import ARM_DIM, Representation, arm_controller, commands_are_absolute
from lfm_policy.data.checks import Array, Finding, Series
from lfm_policy.flow.errors import LFMError

ARM = ARM_DIM["axis_angle"]
# the longest rotation vector of a displacement in [-1, 1]
LONGEST = np.sqrt(3)
SEEN_DEMONSTRATIONS = 5
NUMBERS = "positions of the gripper, rotations of more than a radian"


def are_goals(actions: Array, eef_pos: Sequence[Array]) -> bool:
    """Whether actions (T, 7 an arm) are goals, from their numbers and each gripper's position (T, 3).

    Goals stay within decimetres of the gripper and have rotation vectors of a radian and more, since a gripper
    that points down is turned by pi. Displacements in [-1, 1] do neither, and none is longer than sqrt(3).
    """
    # damaged numbers may overflow a square
    arms = np.split(np.clip(actions, -1e6, 1e6), len(eef_pos), axis=1)
    away = [arm[:, :3] - np.clip(eef, -1e6, 1e6) for arm, eef in zip(arms, eef_pos, strict=True)]
    near = np.median(np.linalg.norm(away, axis=2))
    turned = np.median([np.linalg.norm(arm[:, 3:6], axis=1) for arm in arms])
    return bool(turned > LONGEST or (near < 0.2 and turned > 1))


def find_goals(env_args: Mapping[str, Any], sound: Mapping[str, Series]) -> list[Finding]:
    """Actions that are goals where env_args say displacements, as in Diffusion Policy's `*_abs.hdf5`."""
    if commands_are_absolute(env_args) or not _seen_as_goals(env_args, sound):
        return []
    text = f"actions are goals ({NUMBERS}), env_args say displacements: train with data.representation: absolute"
    return [Finding("action convention", "warning", "", text)]


def action_key(
    file: h5py.File, names: Sequence[str], env_args: Mapping[str, Any], representation: Representation
) -> str:
    """The dataset that actions of `representation` are read from: `actions_abs`, or `actions`.

    LFMError if displacements are asked for and `actions` holds goals, by env_args or by its numbers.
    """
    said = commands_are_absolute(env_args)
    goals = said or hold_goals(file, names, env_args)
    if representation == "delta" and goals:
        why = "by its env_args" if said else f"{NUMBERS}, whatever env_args say"
        raise LFMError(
            f"{file.filename}: actions are goals, not displacements ({why}); set data.representation: absolute"
        )
    only = goals and "actions_abs" not in file["data"][names[0]]
    return "actions" if representation == "delta" or only else "actions_abs"


def hold_goals(file: h5py.File, names: Sequence[str], env_args: Mapping[str, Any]) -> bool:
    """Whether `actions` are goals by their numbers; False where there is no robosuite controller or no gripper."""
    return _seen_as_goals(env_args, _series(file, names[:SEEN_DEMONSTRATIONS]))


def action_key_of(path: str | Path, representation: Representation, filter_key: str | None = None) -> str:
    """`action_key` of the demonstrations of a filter key, of all if there is none."""
    with hdf5.open_hdf5(path) as file:
        return action_key(file, hdf5.chosen_names(file, filter_key), hdf5.read_env_args(file), representation)


def _gripper_keys(actions_dim: int) -> list[str]:
    return [f"obs/robot{arm}_eef_pos" for arm in range(actions_dim // ARM)]


def _seen_as_goals(env_args: Mapping[str, Any], series: Mapping[str, Series]) -> bool:
    """By the numbers; False where there is no robosuite controller, or not what it takes to tell."""
    arm = arm_controller((env_args.get("env_kwargs") or {}).get("controller_configs"))
    actions = series.get("actions", {})
    if arm is None or not actions:
        return False
    dim = next(iter(actions.values())).shape[1]
    grippers = [series.get(key, {}) for key in _gripper_keys(dim)]
    names = [
        name
        for name, steps in actions.items()
        if steps.shape[1] == dim
        and all(name in by_demo and by_demo[name].shape == (len(steps), 3) for by_demo in grippers)
    ]
    if dim % ARM or not grippers or not names:
        return False
    eef_pos = [np.concatenate([by_demo[name] for name in names]) for by_demo in grippers]
    return are_goals(np.concatenate([actions[name] for name in names]), eef_pos)


def _series(file: h5py.File, names: Sequence[str]) -> dict[str, dict[str, Array]]:
    first = file["data"][names[0]].get("actions")
    if not isinstance(first, h5py.Dataset) or first.ndim != 2:
        return {}
    return {
        key: {
            name: dataset[()]
            for name in names
            if isinstance(dataset := file["data"][name].get(key), h5py.Dataset) and dataset.ndim == 2
        }
        for key in ("actions", *_gripper_keys(first.shape[1]))
    }
