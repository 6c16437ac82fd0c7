"""What the numbers of an action mean: one setting that dataset, checkpoint and environment carry."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal, get_args

from lfm_policy.flow.errors import LFMError

Representation = Literal["delta", "absolute"]
Rotation = Literal["axis_angle", "rotation_6d"]

# One arm's action: position 3, rotation, gripper 1.
ARM_DIM: dict[str, int] = {"axis_angle": 7, "rotation_6d": 10}

# The settings of robosuite 1.5's operational-space controller that change what an action does, and its
# defaults. Files carry others (interpolation, kp_limits) that change nothing.
CONTROLLER_DEFAULTS: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "uncouple_pos_ori": True,
    "position_limits": None,
    "orientation_limits": None,
}

# robosuite 1.0's names, which robomimic's configs kept.
OLD_NAMES = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}


@dataclass(frozen=True)
class ActionSpace:
    """The convention in which actions are written.

    `delta` actions are displacements in the controller's input range, `absolute` ones are goals of the
    grip site (position in metres, rotation, gripper). Both are written in `frame`: "world", "base", or "" in
    an environment that has none.
    `dim` is the length of one action as the policy sees it: 7 an arm, or 10 with 6-D rotations.
    Raises LFMError for a value that is none of these.
    """

    representation: Representation
    rotation: Rotation
    frame: str
    control_freq: int
    controller: dict[str, Any] = field(default_factory=dict)
    dim: int = 7

    def __post_init__(self) -> None:
        _one_of("representation", self.representation, get_args(Representation))
        _one_of("rotation", self.rotation, get_args(Rotation))
        if self.rotation == "rotation_6d" and self.representation == "delta":
            raise LFMError("data.rotation: rotation_6d needs data.representation: absolute")
        if self.rotation == "rotation_6d" and self.dim % ARM_DIM["rotation_6d"]:
            raise LFMError(f"data.rotation: rotation_6d needs 10 numbers an arm, the actions have {self.dim}")

    @classmethod
    def from_env_args(
        cls, env_args: Mapping[str, Any], representation: Representation, rotation: Rotation, dim: int
    ) -> ActionSpace:
        """The convention of a dataset recorded with robomimic's `env_args`; `dim` as the policy sees it."""
        env_kwargs = env_args.get("env_kwargs") or {}
        arm = arm_controller(env_kwargs.get("controller_configs"))
        frame = str(arm["input_ref_frame"]) if arm else ""
        control_freq = int(env_kwargs.get("control_freq") or env_args.get("control_freq") or 20)
        return cls(representation, rotation, frame, control_freq, controller_settings(arm), dim)

    @classmethod
    def from_convention(cls, convention: Mapping[str, Any], dim: int) -> ActionSpace:
        """The convention of an environment, from its `action_convention`."""
        return cls.from_dict({**convention, "dim": dim})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionSpace:
        """The inverse of `to_dict`; LFMError names a field that is missing or unknown."""
        names = {entry.name for entry in dataclasses.fields(cls)}
        for wrong, word in ((names - set(values), "missing"), (set(values) - names, "unknown")):
            if wrong:
                raise LFMError(f"action space: {word} field {', '.join(sorted(wrong))}; expected {sorted(names)}")
        return cls(**{**values, "controller": _plain(values["controller"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps as they are."""
        return _plain(dataclasses.asdict(self))

    def differences(self, other: ActionSpace, mine: str = "checkpoint", theirs: str = "environment") -> list[str]:
        """Every field that differs, as `frame: checkpoint world, environment base`; empty when equal."""
        left, right = _flat(self.to_dict()), _flat(other.to_dict())
        return [
            f"{name}: {mine} {left.get(name, 'nothing')}, {theirs} {right.get(name, 'nothing')}"
            for name in dict.fromkeys([*left, *right])
            if left.get(name, "nothing") != right.get(name, "nothing")
        ]


def arm_controller(controller_configs: Any) -> dict[str, Any] | None:
    """The arm's part of a robosuite controller config, in robosuite 1.5's words; None without a config.

    A composite config (robosuite 1.5) means what robosuite 1.5 makes of it: the base's frame and displacements
    unless it says otherwise; it passes over `control_delta` and `damping`, which files still carry. A flat one
    (1.4 and older) means the world's frame, for there was no other, and goals if `control_delta` is false.
    A list holds one config per robot, all alike. LFMError on what holds no settings.
    """
    if isinstance(controller_configs, Sequence) and not isinstance(controller_configs, str):
        controller_configs = controller_configs[0] if controller_configs else None
    if not controller_configs:
        return None
    parts = _settings("controller_configs", controller_configs).get("body_parts")
    if parts is not None:
        parts = _settings("controller_configs.body_parts", parts)
        arm = parts.get("right") or (parts.get("arms") or {}).get("right") or {}
        return {"input_ref_frame": "base", "input_type": "delta", **_without_old_names(arm)}
    arm = controller_configs
    renamed = {new: arm[old] for old, new in OLD_NAMES.items() if old in arm}
    input_type = "absolute" if arm.get("control_delta") is False else "delta"
    return {"input_ref_frame": "world", "input_type": input_type, **renamed, **_without_old_names(arm)}


def _settings(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LFMError(f"env_args: {name} is {value!r}; robosuite's settings expected, as a mapping, or nothing")
    return value


def _without_old_names(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arm.items() if name not in {*OLD_NAMES, "control_delta"}}


def commands_are_absolute(env_args: Mapping[str, Any]) -> bool:
    """Whether env_args say that `actions` holds goals, not displacements."""
    arm = arm_controller((env_args.get("env_kwargs") or {}).get("controller_configs"))
    return arm is not None and arm["input_type"] == "absolute"


def controller_settings(arm: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings that change what an action does, defaults filled in; {} where there is no controller."""
    if arm is None:
        return {}
    settings: dict[str, Any] = _plain({name: arm.get(name, default) for name, default in CONTROLLER_DEFAULTS.items()})
    for name in ("output_max", "output_min"):
        if not isinstance(settings[name], list):
            settings[name] = [settings[name]] * 6
    return settings


def check_env_version(path: object, env_args: Mapping[str, Any], installed: str | None) -> None:
    """LFMError if the dataset was recorded with another robosuite (major.minor) than the `installed` one.

    A file that does not say, another simulator, or no simulator at all (None) pass.
    """
    if not same_version(env_args, installed):
        raise LFMError(
            f"{path}: was recorded with robosuite {env_args['env_version']}, installed is {installed}; observations "
            f"differ in order and sign: `lfm convert {path} --output NEW.hdf5` makes them anew "
            "(data.check_version: false takes them as they are)"
        )


def same_version(env_args: Mapping[str, Any], installed: str | None) -> bool:
    """Whether major and minor version agree, or cannot be compared."""
    recorded = env_args.get("env_version")
    if not recorded or installed is None or env_args.get("type", 1) != 1:
        return True
    return major_minor(recorded) == major_minor(installed)


def installed_version(package: str = "robosuite") -> str | None:
    """The installed version of the simulator, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def major_minor(version: str) -> tuple[int, ...]:
    """(1, 5) of "1.5.2": what decides whether observations and actions mean the same."""
    return tuple(int(number) for number in re.findall(r"\d+", str(version))[:2])


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LFMError(f"data.{name}: {value!r} is unknown; choose one of {', '.join(allowed)}")


def _plain(values: Any) -> Any:
    """Tuples to lists and numpy to Python, so that two sources of one setting compare equal."""
    return json.loads(json.dumps(values, default=lambda array: array.tolist()))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
