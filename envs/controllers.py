"""Controller settings: one form for all that datasets hold, and the part that decides what an action does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

ARM_DEFAULTS: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "input_type": "delta",
    "input_ref_frame": "base",
    "interpolation": None,
    "ramp_ratio": 0.2,
    "gripper": {"type": "GRIP"},
}
"""robosuite 1.5's own settings for an arm; what a dataset does not say is filled in from here."""

# the settings that change what an action does; `representation` and `frame` stand beside them
CONVENTION_KEYS = (
    "type",
    "input_max",
    "input_min",
    "output_max",
    "output_min",
    "kp",
    "damping_ratio",
    "impedance_mode",
    "uncouple_pos_ori",
    "position_limits",
    "orientation_limits",
)
SIX_VECTORS = ("output_max", "output_min")
# robosuite 1.0's, which robomimic's flat configs kept; robosuite 1.5 passes over them in its own form
OLD_NAMES = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}
# robosuite 1.5.2 either does not implement the others or gives actions of another length
SUPPORTED = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "impedance_mode": "fixed",
    "position_limits": None,
    "orientation_limits": None,
    "interpolation": None,
}


def _mapping(name: str, value: Any, remedy: str) -> dict[str, Any]:
    """The value, if it is a dict of settings; ValueError names what it is else."""
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {value!r} is of type {type(value).__name__}, not a dict; {remedy}")
    return value


def _composite_arm(body_parts: Any) -> dict[str, Any]:
    """Settings of the arm that `body_parts` of a composite config give."""
    name, remedy = "controller_configs.body_parts", "the Panda's arm is its entry 'right'"
    parts = _mapping(name, body_parts, remedy)
    parts = parts if parts.get("right") else _mapping(f"{name}.arms", parts.get("arms", {}), remedy)
    if not parts.get("right"):
        raise ValueError(f"{name} has no 'right'; the Panda's arm goes by that name")
    return _mapping(f"{name}.right", parts["right"], "it holds the settings of the arm's controller")


def _arm_settings(config: Any) -> dict[str, Any]:
    """Settings of the arm in a config of robosuite <= 1.4 (flat) or 1.5 (composite), completed."""
    remedy = "give robosuite's settings, one dict for each robot, or None for its defaults"
    config = _mapping("controller_configs", config, remedy)
    if "body_parts" in config:
        return ARM_DEFAULTS | _composite_arm(config["body_parts"])
    # robosuite <= 1.4 knew only the world frame, and chose absolute actions by control_delta=False
    era = {
        "input_ref_frame": "world",
        "input_type": "absolute" if config.get("control_delta") is False else "delta",
    }
    renamed = {new: config[old] for old, new in OLD_NAMES.items() if old in config}
    return ARM_DEFAULTS | era | renamed | config


def normalise(
    controller_configs: Any, n_arms: int, representation: str | None = None, frame: str | None = None
) -> dict[str, Any]:
    """One robosuite 1.5 composite config for all arms.

    controller_configs: None (robosuite's defaults, world frame), a 1.5 or an older config, or a list of one
    per robot; representation ("delta", "absolute") and frame ("world", "base") overrule it unless None.
    ValueError for what the environments do not offer.
    """
    if controller_configs is None:
        arm = ARM_DEFAULTS | {"input_ref_frame": "world"}
    elif not isinstance(controller_configs, list | tuple):
        arm = _arm_settings(controller_configs)
    else:
        arms = [_arm_settings(config) for config in controller_configs]
        if len(arms) != n_arms or any(other != arms[0] for other in arms):
            raise ValueError(f"controller_configs: {n_arms} equal configs expected, one per robot")
        arm = arms[0]
    arm = copy.deepcopy(arm)
    arm["input_type"] = representation or arm["input_type"]
    arm["input_ref_frame"] = frame or arm["input_ref_frame"]
    for key, choices in (("input_type", ("delta", "absolute")), ("input_ref_frame", ("world", "base"))):
        if arm[key] not in choices:
            raise ValueError(f"controller_configs: {key} is {arm[key]!r}; choose from {', '.join(choices)}")
    for key, value in SUPPORTED.items():
        if not _all_are(arm[key], value):
            raise ValueError(f"controller_configs: {key} is {arm[key]!r}; only {value!r} is supported")
        arm[key] = value
    return {"type": "BASIC", "body_parts": {"right": arm}}


def _all_are(found: Any, wanted: Any) -> bool:
    """Whether a setting, or each of one for every axis, is the wanted one."""
    each = list(found) if isinstance(found, list | tuple | np.ndarray) else [found]
    return bool(each) and all(one == wanted for one in each)


def _number(value: Any, expand: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Sequence) or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [float(v) for v in value]
    return [float(value)] * 6 if expand else float(value)


def convention(config: dict[str, Any]) -> dict[str, Any]:
    """What of a normalised config decides the effect of an action; JSON-able, equal iff effects are."""
    arm = config["body_parts"]["right"]
    return {key: _number(arm[key], key in SIX_VECTORS) for key in CONVENTION_KEYS}
