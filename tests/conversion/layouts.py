"""Files as robosuite and robomimic of every version lay them out, written with h5py alone from one recording."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from tests.envs.helpers import random_actions

Array = np.ndarray

# robomimic's flat form of robosuite 1.2 to 1.4, as the Handover recording in robosuite 1.4.1 has it
FLAT: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}
# robosuite's own flat form, from env_info of the Lift recordings in robosuite 1.4.1
OWN_FLAT = {name: value for name, value in FLAT.items() if not name.startswith("damping")}
OWN_FLAT |= {"damping_ratio": 1, "damping_ratio_limits": [0, 10]}
# robomimic's v1.5 files: the flat block, dead words included, within the composite form
IN_COMPOSITE = FLAT | {"input_ref_frame": "world", "gripper": {"type": "GRIP"}}


def composite(arm: dict[str, Any]) -> dict[str, Any]:
    return {"type": "BASIC", "body_parts": {"right": arm}}


@dataclass(frozen=True)
class Form:
    """One way in which a file tells version, controller and robots; `raw` is robosuite's own layout."""

    version: str | None
    controller: dict[str, Any]
    absolute: bool = False
    raw: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def old_columns(self) -> bool:
        return self.version is None or self.version < "1.5"

    def env_args(self, env_name: str, n_arms: int = 1) -> dict[str, Any]:
        pictures = {"camera_names": "agentview", "camera_heights": 84, "camera_widths": 84, "camera_depths": False}
        kwargs: dict[str, Any] = {
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "ignore_done": True,
            "use_object_obs": True,
            "use_camera_obs": False,
            "reward_shaping": False,
            "control_freq": 20,
            "controller_configs": copy.deepcopy(self.controller),
            "robots": ["Panda"] * n_arms,
            **pictures,
            **self.kwargs,
        }
        if n_arms == 2:
            kwargs["env_configuration"] = "single-arm-opposed"
        version = {} if self.version is None else {"env_version": self.version}
        return {"env_name": env_name, "type": 1, **version, "env_kwargs": kwargs}


FORMS = {
    "robomimic v1.2": Form("1.2.0", FLAT),
    "robomimic v1.4 with pictures": Form("1.4.1", FLAT, kwargs={"render_gpu_device_id": 0}),
    "robomimic flat, absolute": Form("1.4.1", FLAT | {"control_delta": False}, absolute=True),
    "robomimic v1.5": Form("1.5.1", composite(IN_COMPOSITE), kwargs={"lite_physics": False}),
    "composite, absolute": Form(
        "1.5.1",
        composite({"type": "OSC_POSE", "input_type": "absolute", "input_ref_frame": "world"}),
        absolute=True,
        kwargs={"lite_physics": False},
    ),
    "RoboTurk, no version": Form(None, FLAT),
    "robosuite raw 1.4": Form("1.4.0", OWN_FLAT, raw=True),
}


@dataclass(frozen=True)
class Taken:
    """An episode of T steps as the environment showed it: states and observations before each action, and rewards."""

    env_name: str
    observations: dict[str, Array]
    actions: Array
    actions_abs: Array
    states: Array
    rewards: Array
    model_file: str

    @property
    def n_arms(self) -> int:
        return self.actions.shape[1] // 7

    def head(self, steps: int) -> Taken:
        rows = {name: getattr(self, name)[:steps] for name in ("actions", "actions_abs", "states", "rewards")}
        return replace(self, observations={key: value[:steps] for key, value in self.observations.items()}, **rows)


def take(env: gymnasium.Env, seed: int, steps: int | None = None) -> Taken:
    """An episode of the environment's expert, or `steps` random motions."""
    inner: Any = env.unwrapped
    observation, _ = inner.reset(seed=seed)
    first = inner.get_state()
    expert = inner.make_expert(seed) if steps is None else None
    planned = iter(()) if steps is None else iter(0.5 * random_actions(env, steps, seed))
    rows: dict[str, list[Any]] = {name: [] for name in ("obs", "actions", "actions_abs", "states", "rewards")}
    while not expert.done if expert else True:
        action = expert.act() if expert else next(planned, None)
        if action is None:
            break
        rows["obs"].append(observation)
        rows["states"].append(inner.get_state()["states"])
        observation, reward, _, _, info = inner.step(action)
        rows["actions"].append(action)
        rows["actions_abs"].append(info["actions_abs"])
        rows["rewards"].append(reward)
    obs = rows.pop("obs")
    observations = {key: np.stack([row[key] for row in obs]) for key in observation}
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Taken(inner.task.env_name, observations, **arrays, model_file=first["model_file"])


def old_columns(env_name: str, observed: Array) -> Array:
    """`object` as robosuite 1.4 ordered it and chose its signs, from 1.5's."""
    if env_name == "Lift":
        return np.hstack([observed[:, :7], -observed[:, 7:]])
    if env_name in ("PickPlaceCan", "NutAssemblySquare"):
        return np.roll(observed, 7, axis=1)
    if env_name == "ToolHang":
        blocks = [np.roll(observed[:, start : start + 14], 7, axis=1) for start in (0, 14, 28)]
        return np.hstack([*blocks, observed[:, 42:]])
    return observed


def write(path: Path, form: Form, episodes: Sequence[Taken], model: str | None = None) -> Path:
    """A file of the form: robomimic's low-dimensional layout, RoboTurk's (no observations), or robosuite's raw one.

    `model` stands in for the recorded one.
    """
    first = episodes[0]
    env_args = form.env_args(first.env_name, first.n_arms)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for index, taken in enumerate(episodes):
            demo = data.create_group(f"demo_{index + form.raw}")
            demo.attrs["model_file"] = taken.model_file if model is None else model
            demo["states"] = taken.states
            demo["actions"] = taken.actions_abs if form.absolute else taken.actions
            if not form.raw:
                demo.attrs["num_samples"] = len(taken.actions)
            if form.raw or form.version is None:
                continue
            demo["rewards"] = taken.rewards
            demo["dones"] = (taken.rewards > 0).astype(np.int64)
            for key, values in taken.observations.items():
                if key == "object" and form.old_columns:
                    values = old_columns(taken.env_name, values)
                demo[f"obs/{key}"] = values
        if form.raw:
            _write_raw_attributes(data, env_args)
        else:
            data.attrs["env_args"] = json.dumps(env_args, indent=4)
            data.attrs["total"] = sum(len(taken.actions) for taken in episodes)
        if form.version is None:
            for name in ("user_info", "controller_info", "teleop_config"):
                file.create_group(name)
                data.create_group(name).attrs["note"] = "of the operator"
    return path


def _write_raw_attributes(data: h5py.Group, env_args: dict[str, Any]) -> None:
    kwargs = env_args["env_kwargs"]
    info = {"env_name": env_args["env_name"], "robots": "Panda", "controller_configs": kwargs["controller_configs"]}
    data.attrs.update({"date": "11-16-2022", "time": "14:13:58", "env": env_args["env_name"]})
    data.attrs["repository_version"] = env_args["env_version"]
    data.attrs["env_info"] = json.dumps(info)
