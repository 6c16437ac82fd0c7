"""env_args of every form, made modern, build in robosuite 1.5 the controllers that they describe."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from lfm_policy.conversion.env_args import modernise
from lfm_policy.data.action_space import ActionSpace, commands_are_absolute
from lfm_policy.data.hdf5 import read_env_args
from tests.conversion.layouts import FLAT, FORMS, IN_COMPOSITE, OWN_FLAT, Form, composite

STIFF = {"kp": 300, "output_max": [0.1] * 3 + [0.5] * 3, "output_min": [-0.1] * 3 + [-0.5] * 3}


def controllers_of(env_args: dict[str, Any]) -> list[Any]:
    """The arms' controllers that robosuite itself builds, after the way through JSON that a file goes."""
    from envs.simulator import load_robosuite

    env_args = json.loads(json.dumps(env_args))
    kwargs = env_args["env_kwargs"] | {"initialization_noise": None}
    env = load_robosuite().make(env_args["env_name"], **kwargs)
    try:
        assert env.lite_physics is kwargs["lite_physics"]
        return [robot.part_controllers["right"] for robot in env.robots]
    finally:
        env.close()


@pytest.mark.parametrize("form", [*FORMS.values(), Form("1.4.1", FLAT | STIFF | {"damping": 2})], ids=[*FORMS, "stiff"])
def test_robosuite_builds_what_the_file_describes(form: Form) -> None:
    """kd = 2 sqrt(kp) damping ratio; every form here is of the world's frame."""
    (controller,) = controllers_of(modernise(form.env_args("Lift")))
    assert controller.name == "OSC_POSE"
    assert controller.input_type == ("absolute" if form.absolute else "delta")
    assert controller.input_ref_frame == "world"
    said = {"kp": 150, "output_max": FLAT["output_max"], "output_min": FLAT["output_min"], **form.controller}
    damping = said.get("damping", 1) if "body_parts" not in said else 1
    np.testing.assert_array_equal(controller.kp, np.full(6, said["kp"]))
    np.testing.assert_allclose(controller.kd, np.full(6, 2 * np.sqrt(said["kp"]) * damping))
    np.testing.assert_array_equal(controller.output_max, said["output_max"])
    np.testing.assert_array_equal(controller.output_min, said["output_min"])


def test_two_arms_that_share_one_config() -> None:
    modern = modernise(FORMS["robomimic v1.5"].env_args("TwoArmTransport", n_arms=2))
    assert modern["env_kwargs"]["env_configuration"] == "opposed"
    left, right = controllers_of(modern)
    assert left.input_ref_frame == right.input_ref_frame == "world"
    assert left.naming_prefix != right.naming_prefix


@pytest.mark.parametrize(
    ("controller", "absolute"),
    [
        (FLAT, False),
        (OWN_FLAT, False),
        (FLAT | {"control_delta": False}, True),
        (composite(IN_COMPOSITE), False),
        # robosuite 1.5 passes over the word, so displacements were executed
        (composite(IN_COMPOSITE | {"control_delta": False}), False),
        (composite({"type": "OSC_POSE", "input_type": "absolute"}), True),
        ([FLAT, FLAT], False),
        ({"type": "BASIC", "body_parts": {"arms": {"right": OWN_FLAT | {"input_type": "delta"}}}}, False),
    ],
)
def test_what_actions_mean_stays(controller: Any, absolute: bool) -> None:
    old = {"env_name": "Lift", "type": 1, "env_version": "1.4.1", "env_kwargs": {"controller_configs": controller}}
    before = copy.deepcopy(old)
    modern = modernise(old)
    assert old == before
    assert modernise(modern) == modern
    assert modern["env_version"] == "1.4.1"
    assert commands_are_absolute(old) == commands_are_absolute(modern) == absolute
    spaces = [ActionSpace.from_env_args(args, "delta", "axis_angle", 7) for args in (old, modern)]
    assert spaces[0] == spaces[1]


def test_the_environment_reads_old_words_as_the_package_does() -> None:
    """Both complete a config by code of their own, since neither may know the other."""
    from envs import controllers

    for controller in (
        FLAT | {"damping": 3},
        FLAT | {"control_delta": False},
        composite(IN_COMPOSITE | {"damping": 3}),
    ):
        modern = modernise({"env_name": "Lift", "type": 1, "env_kwargs": {"controller_configs": controller}})
        old, new = (
            controllers.normalise(configs, 1) for configs in (controller, modern["env_kwargs"]["controller_configs"])
        )
        assert controllers.convention(old) == controllers.convention(new)
        arms = [config["body_parts"]["right"] for config in (old, new)]
        assert arms[0]["input_type"] == arms[1]["input_type"]
        assert arms[0]["input_ref_frame"] == arms[1]["input_ref_frame"]


def test_words_of_old_versions() -> None:
    kwargs = {
        "robots": "Panda",
        "env_configuration": "single-arm-opposed",
        "mount_types": "default",
        "gripper_visualizations": True,
        "use_indicator_object": False,
        "lang": "lift the cube",
        "render_gpu_device_id": -1,
        "camera_names": ["agentview"],
        "control_freq": 10,
        "controller_configs": FLAT,
    }
    modern = modernise({"env_name": "Lift", "type": 1, "env_version": "1.0.0", "env_kwargs": kwargs})["env_kwargs"]
    kept = {key: modern.get(key) for key in ("robots", "env_configuration", "base_types", "render_gpu_device_id")}
    assert kept == {
        "robots": ["Panda"], "env_configuration": "opposed", "base_types": "default", "render_gpu_device_id": -1
    }  # fmt: skip
    assert modern["control_freq"] == 10
    assert not {"mount_types", "gripper_visualizations", "use_indicator_object", "lang"} & set(modern)
    arm = modern["controller_configs"]["body_parts"]["right"]
    assert not {"damping", "damping_limits", "control_delta"} & set(arm)
    assert arm["gripper"] == {"type": "GRIP"}


@pytest.mark.parametrize(("version", "lite"), [("1.4.1", False), (None, False), ("1.5.1", True)])
def test_physics_are_those_of_the_version(version: str | None, lite: bool) -> None:
    """Robosuite 1.5 brought lite physics as its default; a file that says which keeps it."""
    told = {} if version is None else {"env_version": version}
    args = {"env_name": "Lift", "type": 1, **told, "env_kwargs": {}}
    assert modernise(args)["env_kwargs"]["lite_physics"] is lite
    assert modernise({**args, "env_kwargs": {"lite_physics": not lite}})["env_kwargs"]["lite_physics"] is not lite


@pytest.mark.parametrize("args", [{}, {"env_name": "Isaac-Stack-Cube-v0", "type": 2, "env_kwargs": {"lang": "stack"}}])
def test_other_simulators_are_left_alone(args: dict[str, Any]) -> None:
    assert modernise(args) == args


def test_env_info_becomes_env_args(tmp_path: Any) -> None:
    import h5py

    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        info = {"env_name": "Lift", "robots": "Panda", "controller_configs": OWN_FLAT}
        data.attrs.update({"env_info": json.dumps(info), "env": "Lift", "repository_version": "1.4.0"})
        modern = modernise(read_env_args(file))
    again = modernise(FORMS["robomimic v1.2"].env_args("Lift"))
    assert (modern["env_name"], modern["type"], modern["env_version"]) == ("Lift", 1, "1.4.0")
    pictures = {"camera_names", "camera_heights", "camera_widths", "camera_depths"}
    assert modern["env_kwargs"] == {key: value for key, value in again["env_kwargs"].items() if key not in pictures}
