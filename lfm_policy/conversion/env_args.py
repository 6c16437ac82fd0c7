"""robomimic's `env_args` of any robosuite version in the form that robosuite 1.5 takes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lfm_policy.data.action_space import arm_controller, major_minor

CONFIGURATIONS = {
    "single-arm-opposed": "opposed",
    "single-arm-parallel": "parallel",
    "bimanual": "single-robot",
}
RENAMED = {"mount_types": "base_types"}
# robosuite 1.5 refuses them; the last three are robomimic's own and say nothing of the simulation.
# What only concerns pictures (camera_names, render_gpu_device_id) is kept.
DROPPED = {"gripper_visualizations", "use_indicator_object", "postprocess_visual_obs", "lang", "env_lang"}
# What robomimic's files say and robosuite's raw recordings leave to its collecting script.
DEFAULTS: dict[str, Any] = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "ignore_done": True,
    "use_object_obs": True,
    "use_camera_obs": False,
    "reward_shaping": False,
    "control_freq": 20,
}


def modernise(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """env_args as robosuite 1.5 takes them; those of another simulator (type other than 1) are copied.

    The controller becomes a composite config that says its frame, whether actions are displacements or goals,
    and its damping in robosuite 1.5's words; physics are those of the recording's version. Nothing else about
    the actions changes, and `env_version` stays: it says what the observations were made with.
    """
    changed = copy.deepcopy(dict(env_args))
    if not changed or changed.get("type", 1) != 1:
        return changed
    given = {RENAMED.get(name, name): value for name, value in (changed.get("env_kwargs") or {}).items()}
    name = given.pop("env_name", None)
    kwargs = DEFAULTS | {key: value for key, value in given.items() if key not in DROPPED}
    if isinstance(kwargs.get("robots"), str):
        kwargs["robots"] = [kwargs["robots"]]
    if "env_configuration" in kwargs:
        kwargs["env_configuration"] = CONFIGURATIONS.get(kwargs["env_configuration"], kwargs["env_configuration"])
    arm = arm_controller(kwargs.get("controller_configs"))
    if arm is not None:
        # the only words that robosuite itself does not fill in
        right = {"interpolation": None, "gripper": {"type": "GRIP"}, **arm}
        kwargs["controller_configs"] = {"type": "BASIC", "body_parts": {"right": right}}
    # robosuite 1.5 brought a cheaper integration as its default; there was none before.
    recorded = major_minor(str(changed.get("env_version") or "0"))
    kwargs.setdefault("lite_physics", recorded >= (1, 5))
    return {**changed, "env_name": changed.get("env_name") or name, "type": 1, "env_kwargs": kwargs}


def with_goals(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """`modernise`, and `actions` are goals whatever the controller's config says."""
    changed = modernise(env_args)
    changed["env_kwargs"]["controller_configs"]["body_parts"]["right"]["input_type"] = "absolute"
    return changed
