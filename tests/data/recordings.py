"""Small robomimic files, written with h5py alone, so that the reader is not tested with the writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ENV_ARGS: dict[str, Any] = {
    "env_name": "Lift",
    "type": 1,
    "env_version": "1.5.1",
    "env_kwargs": {
        "control_freq": 20,
        "robots": ["Panda"],
        "controller_configs": {
            "type": "BASIC",
            "body_parts": {"right": {"type": "OSC_POSE", "kp": 150, "input_ref_frame": "world"}},
        },
    },
}
OBS_DIMS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
KEYS = list(OBS_DIMS)

Episode = dict[str, np.ndarray]


def smooth(rng: np.random.Generator, length: int, dim: int) -> np.ndarray:
    """A wandering without jumps: the sum of a few slow sines, (length, dim)."""
    time = np.linspace(0, 1, length)[:, None, None]
    waves = np.sin(2 * np.pi * (time * rng.uniform(0.2, 1.5, (1, dim, 3)) + rng.uniform(size=(1, dim, 3))))
    return waves.sum(-1) / 4


def episode(rng: np.random.Generator, length: int) -> Episode:
    """One clean demonstration: unit quaternions, a gripper that closes, a reward at the end."""
    data = {f"obs/{key}": smooth(rng, length, dim) for key, dim in OBS_DIMS.items()}
    quaternion = smooth(rng, length, 4) + np.array([0, 0, 0, 2.0])
    data["obs/robot0_eef_quat"] = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    gripper = np.where(np.arange(length) < length // 2, -1.0, 1.0)[:, None]
    data["actions"] = np.hstack([0.5 * smooth(rng, length, 6), gripper])
    data["actions_abs"] = np.hstack([smooth(rng, length, 6), gripper])
    data["rewards"] = (np.arange(length) == length - 1).astype(float)
    data["dones"] = (np.arange(length) == length - 1).astype(np.int64)
    data["states"] = smooth(rng, length, 32)
    return data


def write_robomimic_file(
    path: Path,
    episodes: Mapping[str, Episode],
    env_args: dict[str, Any] | None = ENV_ARGS,
    masks: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write episodes (name to dataset path to array) as robomimic lays them out."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, arrays in episodes.items():
            for key, array in arrays.items():
                data.create_dataset(f"{name}/{key}", data=array)
            if "actions" in arrays:
                data[name].attrs["num_samples"] = len(arrays["actions"])
        if env_args is not None:
            data.attrs["env_args"] = json.dumps(env_args)
        for key, names in (masks or {}).items():
            file.create_dataset(f"mask/{key}", data=np.array(names, dtype="S"))
    return path
