"""The action convention: out of every form of controller config, round trip, differences, version check."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from lfm_policy.data import ActionSpace, check_env_version
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS

OSC = {
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
FLAT = OSC | {"damping": 1, "kp_limits": [0, 300], "control_delta": True, "ramp_ratio": 0.2}


def env_args(controller: Any, version: str = "1.5.1", **kwargs: Any) -> dict[str, Any]:
    configs = {} if controller is None else {"controller_configs": controller}
    return {"env_name": "Lift", "type": 1, "env_version": version, "env_kwargs": {**configs, **kwargs}}


def composite(arm: dict[str, Any]) -> dict[str, Any]:
    return {"type": "BASIC", "body_parts": {"right": arm}}


def delta(args: dict[str, Any]) -> ActionSpace:
    return ActionSpace.from_env_args(args, "delta", "axis_angle", 7)


@pytest.mark.parametrize(
    ("args", "frame"),
    [
        (env_args(composite({"type": "OSC_POSE"})), "base"),
        (env_args(composite(FLAT | {"input_ref_frame": "world", "gripper": {"type": "GRIP"}})), "world"),
        (
            env_args({"type": "BASIC", "body_parts": {"arms": {"right": OSC | {"input_type": "delta"}}}}),
            "base",
        ),
        (env_args(composite(OSC | {"output_max": (0.05,) * 3 + (0.5,) * 3})), "base"),
        (env_args(composite(OSC | {"output_min": np.array(OSC["output_min"])})), "base"),
        (env_args(FLAT, version="1.4.1"), "world"),
        (env_args([FLAT, FLAT]), "world"),
    ],
)
def test_every_form_gives_one_controller(args: dict[str, Any], frame: str) -> None:
    space = delta(args)
    assert space.controller == OSC
    assert (space.frame, space.control_freq, space.dim) == (frame, 20, 7)


def test_a_scalar_output_range_is_six() -> None:
    arm = {"output_max": 0.1, "output_min": -0.1}
    controller = delta(env_args(composite(arm))).controller
    assert controller["output_max"] == [0.1] * 6
    assert controller["output_min"] == [-0.1] * 6


@pytest.mark.parametrize("args", [{}, env_args(None), {"env_name": "PushT", "type": 2, "env_kwargs": None}])
def test_without_a_controller(args: dict[str, Any]) -> None:
    space = ActionSpace.from_env_args(args, "absolute", "axis_angle", 2)
    assert (space.controller, space.frame, space.control_freq) == ({}, "", 20)


@pytest.mark.parametrize("controller", ["OSC_POSE", ["OSC_POSE"], {"body_parts": "right"}])
def test_what_holds_no_settings_is_told(controller: Any) -> None:
    with pytest.raises(LFMError, match=r"env_args: controller_configs(\.body_parts)? is '\w+'; robosuite's settings"):
        delta(env_args(controller))


def test_json_round_trip() -> None:
    space = ActionSpace.from_env_args(ENV_ARGS, "absolute", "rotation_6d", 10)
    assert ActionSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_convention_of_an_environment_equals_the_datasets() -> None:
    convention = {
        "representation": "delta",
        "rotation": "axis_angle",
        "frame": "world",
        "control_freq": 20,
        "controller": OSC | {"output_max": tuple(OSC["output_max"])},  # type: ignore[arg-type]
    }
    assert ActionSpace.from_convention(convention, 7).differences(delta(ENV_ARGS)) == []


def test_differences_name_the_field() -> None:
    other = copy.deepcopy(ENV_ARGS)
    other["env_kwargs"]["control_freq"] = 10
    other["env_kwargs"]["controller_configs"]["body_parts"]["right"] |= {"kp": 300, "input_ref_frame": "base"}
    assert delta(ENV_ARGS).differences(delta(other)) == [
        "frame: checkpoint world, environment base",
        "control_freq: checkpoint 20, environment 10",
        "controller.kp: checkpoint 150, environment 300",
    ]
    assert delta(ENV_ARGS).differences(delta({}), "dataset", "server")[1] == (
        "controller.type: dataset OSC_POSE, server nothing"
    )


def test_settings_that_do_nothing_make_no_difference() -> None:
    other = copy.deepcopy(ENV_ARGS)
    right = other["env_kwargs"]["controller_configs"]["body_parts"]["right"]
    right |= {"damping": 3, "control_delta": False, "interpolation": "linear", "kp_limits": [0, 1]}
    assert delta(other).differences(delta(ENV_ARGS)) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"representation": "relative"}, "representation: 'relative'"),
        ({"rotation": "euler"}, "rotation: 'euler'"),
        ({"rotation": "rotation_6d", "dim": 10}, "absolute"),
        ({"representation": "absolute", "rotation": "rotation_6d", "dim": 7}, "10 numbers"),
    ],
)
def test_wrong_values(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(LFMError, match=named):
        ActionSpace.from_dict(delta(ENV_ARGS).to_dict() | fields)


def test_fields_missing_and_unknown() -> None:
    values = delta(ENV_ARGS).to_dict()
    with pytest.raises(LFMError, match="unknown field framme"):
        ActionSpace.from_dict(values | {"framme": "base"})
    del values["frame"]
    with pytest.raises(LFMError, match="missing field frame"):
        ActionSpace.from_dict(values)


def test_version_check() -> None:
    recorded = {"env_name": "Lift", "type": 1, "env_version": "1.4.1"}
    with pytest.raises(LFMError) as caught:
        check_env_version("lift.hdf5", recorded, "1.5.2")
    assert str(caught.value) == (
        "lift.hdf5: was recorded with robosuite 1.4.1, installed is 1.5.2; observations differ in order and "
        "sign: `lfm convert lift.hdf5 --output NEW.hdf5` makes them anew "
        "(data.check_version: false takes them as they are)"
    )


@pytest.mark.parametrize(
    ("args", "installed"),
    [
        ({"env_version": "1.5.1", "type": 1}, "1.5.2"),
        ({"env_version": "1.4.1", "type": 1}, None),
        ({"env_version": "1.4.1", "type": 2}, "1.5.2"),
        ({"type": 1}, "1.5.2"),
        ({}, "1.5.2"),
    ],
)
def test_versions_that_pass(args: dict[str, Any], installed: str | None) -> None:
    check_env_version("lift.hdf5", args, installed)


@pytest.mark.parametrize(
    "configs",
    [
        composite({"type": "OSC_POSE"}),
        composite(FLAT | {"input_ref_frame": "world", "gripper": {"type": "GRIP"}}),
        composite(OSC | {"kp": 300, "output_max": 0.1, "output_min": -0.1, "uncouple_pos_ori": False}),
        FLAT,
        FLAT | {"kp": 100},
        [FLAT, FLAT],
    ],
)
def test_datasets_and_environments_read_a_config_alike(configs: Any) -> None:
    """The environments complete a config by code of their own: both must come to one convention."""
    from envs import controllers

    normalised = controllers.normalise(copy.deepcopy(configs), 2)
    convention = {
        "representation": "delta",
        "rotation": "axis_angle",
        "frame": normalised["body_parts"]["right"]["input_ref_frame"],
        "control_freq": 20,
        "controller": controllers.convention(normalised),
    }
    dataset = delta(env_args(configs))
    assert dataset.differences(ActionSpace.from_convention(convention, 7)) == []
    assert dataset == delta(env_args(normalised))
