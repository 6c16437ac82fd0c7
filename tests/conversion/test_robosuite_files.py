"""Files built to the published layouts, converted, are the recording they were built from; and back again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lfm_policy.conversion.recording import Episode, Recording
from lfm_policy.conversion.robosuite_files import read_hdf5, write_robosuite
from lfm_policy.conversion.run import Conversion, convert
from lfm_policy.flow.errors import LFMError
from tests.conversion.layouts import FLAT, FORMS, Form, Taken, old_columns, write

# robosuite 1.4's own model names files that 1.5 does not have
OTHER_MODEL = '<mujoco><asset><mesh file="robosuite/models/assets/mounts/meshes/pedestal.stl"/></asset></mujoco>'
# what steps show is up to a substep older than what a restored state shows, and a substep of these
# motions is 2 ms at up to 1 m/s
SUBSTEP = 2e-3


def converted(tmp_path: Path, form: Form, taken: Taken, model: str | None = None) -> Episode:
    """The first episode of a file of the form after `lfm convert`, read with h5py alone."""
    source = write(tmp_path / "old.hdf5", form, [taken], model)
    output = tmp_path / "new.hdf5"
    convert(Conversion(source, output, "robomimic", valid_fraction=0))
    with h5py.File(output, "r") as file:
        demo = file["data/demo_0"]
        return Episode(
            demo["actions"][()],
            states=demo["states"][()],
            observations={key: values[()] for key, values in demo["obs"].items()},
            rewards=demo["rewards"][()],
            datasets={"actions_abs": demo["actions_abs"][()]},
            attrs={**demo.attrs, "env_args": json.loads(file["data"].attrs["env_args"])},
        )


def assert_same_episode(new: Episode, taken: Taken, absolute: bool, tolerance: float = 0.0) -> None:
    """`tolerance` for goals alone: states and actions pass through unchanged, observations are a substep fresher."""
    np.testing.assert_array_equal(new.states, taken.states)
    np.testing.assert_array_equal(new.actions, taken.actions_abs if absolute else taken.actions)
    np.testing.assert_allclose(new.datasets["actions_abs"], taken.actions_abs, atol=tolerance)
    np.testing.assert_array_equal(new.rewards, taken.rewards)
    assert new.observations.keys() == taken.observations.keys()
    for key, expected in taken.observations.items():
        np.testing.assert_allclose(new.observations[key], expected, atol=SUBSTEP, err_msg=key)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_lift_of_every_form_is_converted_to_what_was_recorded(tmp_path: Path, lift: Taken, form: Form) -> None:
    """Goals equal those of the steps taken but for rounding: rotation vectors go through matrices and back."""
    new = converted(tmp_path, form, lift.head(12))
    assert_same_episode(new, lift.head(12), form.absolute, tolerance=1e-12)
    kwargs = new.attrs["env_args"]["env_kwargs"]
    arm = kwargs["controller_configs"]["body_parts"]["right"]
    assert (arm["input_type"], arm["input_ref_frame"]) == ("absolute" if form.absolute else "delta", "world")
    assert kwargs["lite_physics"] is False
    assert new.attrs["env_args"]["env_version"] > "1.5"


def test_goals_that_env_args_deny_are_converted_as_goals(tmp_path: Path, lift: Taken) -> None:
    """Diffusion Policy's `*_abs.hdf5`: control_delta still true."""
    form = Form("1.2.0", FLAT, absolute=True)
    new = converted(tmp_path, form, lift)
    assert_same_episode(new, lift, absolute=True, tolerance=1e-12)
    assert new.rewards is not None
    assert new.rewards[-1] == 1
    kwargs = new.attrs["env_args"]["env_kwargs"]
    assert kwargs["controller_configs"]["body_parts"]["right"]["input_type"] == "absolute"


def test_success_is_found_with_another_versions_model(tmp_path: Path, lift: Taken) -> None:
    """The model is refused, and the simulator's own shows the states."""
    new = converted(tmp_path, FORMS["robosuite raw 1.4"], lift, OTHER_MODEL)
    assert_same_episode(new, lift, absolute=False, tolerance=1e-6)
    assert new.rewards is not None
    assert new.rewards[-1] == 1
    assert "model_file" not in new.attrs


def test_can_gets_todays_order_of_columns(tmp_path: Path, can: Taken) -> None:
    assert_same_episode(converted(tmp_path, FORMS["robomimic v1.4 with pictures"], can), can, False, tolerance=1e-12)


@pytest.mark.parametrize("form", ["robomimic v1.2", "robomimic v1.5"])
def test_two_arms_of_one_controller_config(tmp_path: Path, transport: Taken, form: str) -> None:
    """Both in the world's frame, which for these arms is not the base's."""
    assert_same_episode(converted(tmp_path, FORMS[form], transport), transport, False, tolerance=1e-12)


def test_robomimics_layout_is_read_as_it_stands(tmp_path: Path, lift: Taken) -> None:
    form = FORMS["robomimic v1.4 with pictures"]
    path = write(tmp_path / "old.hdf5", form, [lift.head(9), lift.head(5)])
    with h5py.File(path, "r+") as file:
        file["mask/few"] = np.array(["demo_1"], dtype="S8")
        file["data/demo_0/actions_abs"] = lift.actions_abs[:9]
        file["data/demo_0/obs/agentview_image"] = np.full((9, 4, 4, 3), 7, dtype=np.uint8)
        file["data/demo_0/next_obs/robot0_eef_pos"] = lift.observations["robot0_eef_pos"][1:10]
        file["data/demo_0/action_dict/abs_pos"] = np.zeros((9, 3))
        file["data/demo_0/obs/datagen/poses"] = np.zeros((9, 3))
        file["data/demo_0"].attrs["seed"] = 4
    recording = read_hdf5(path)
    assert list(recording.names) == ["demo_0", "demo_1"]
    assert recording.env_args == form.env_args("Lift")
    assert recording.masks == {"few": ["demo_1"]}
    episode = recording.read("demo_0")
    np.testing.assert_array_equal(episode.observations["object"], old_columns("Lift", lift.observations["object"][:9]))
    assert set(episode.observations) == {*lift.observations, "agentview_image"}
    assert episode.observations["agentview_image"].dtype == np.uint8
    assert set(episode.next_observations) == {"robot0_eef_pos"}
    np.testing.assert_array_equal(episode.datasets["actions_abs"], lift.actions_abs[:9])
    assert set(episode.datasets) == {"actions_abs"}
    assert dict(episode.attrs) == {"model_file": lift.model_file, "seed": 4}
    assert [len(other.actions) for _, other in recording.episodes()] == [9, 5]


@pytest.mark.parametrize("there", [True, False])
def test_models_in_files_of_their_own(tmp_path: Path, lift: Taken, there: bool) -> None:
    path = write(tmp_path / "demo.hdf5", FORMS["robosuite raw 1.4"], [lift.head(5)], model="model_1.xml")
    if there:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "model_1.xml").write_text("<mujoco/>")
    recording = read_hdf5(path)
    assert list(recording.names) == ["demo_1"]
    episode = recording.read("demo_1")
    assert episode.attrs == ({"model_file": "<mujoco/>"} if there else {})
    np.testing.assert_array_equal(episode.states, lift.states[:5])
    assert episode.observations == {}


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(LFMError) as caught:
        list(read_hdf5(path).episodes())
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_isaac_labs_groups_are_named(tmp_path: Path) -> None:
    path = tmp_path / "isaac.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((5, 8))
        for group in ("states", "initial_state"):
            demo[f"{group}/articulation/robot/joint_position"] = np.zeros((5, 9))
            demo[f"{group}/rigid_object/cube_1/root_pose"] = np.zeros((5, 7))
        args = {"env_name": "Isaac-Stack-Cube-Franka-IK-Abs-v0", "type": 2}
        file["data"].attrs["env_args"] = json.dumps(args)
    assert "demo_0/states is a group of articulation, rigid_object, not an array (Isaac Lab's layout)" in refused(path)


def test_robosuite_03_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_1")
        for key, dim in {"right_dpos": 3, "right_dquat": 4, "gripper_actuations": 1, "joint_velocities": 7}.items():
            demo[key] = np.zeros((5, dim))
        demo["states"] = np.zeros((5, 34))
        file["data"].attrs.update({"env": "SawyerLift", "repository_version": "0.1.0"})
    line = refused(path)
    assert "demo_1 has gripper_actuations, joint_velocities, right_dpos, right_dquat of robosuite 0.3" in line


@pytest.mark.parametrize("key", ["actions", "states", "rewards", "obs/object"])
@pytest.mark.parametrize("damage", ["short", "gone"])
def test_rows_that_do_not_fit(tmp_path: Path, lift: Taken, key: str, damage: str) -> None:
    path = write(tmp_path / "old.hdf5", FORMS["robomimic v1.4 with pictures"], [lift.head(6)])
    with h5py.File(path, "r+") as file:
        rows = file[f"data/demo_0/{key}"][()]
        del file[f"data/demo_0/{key}"]
        if damage == "short":
            file[f"data/demo_0/{key}"] = rows[:4]
    if damage == "gone" and key != "actions":
        assert len(read_hdf5(path).read("demo_0").actions) == 6
    else:
        assert "actions" in refused(path)


def test_a_raw_file_without_states(tmp_path: Path, lift: Taken) -> None:
    path = write(tmp_path / "demo.hdf5", FORMS["robosuite raw 1.4"], [lift.head(6)])
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/states"]
    assert "demo_1 has no states; it has actions" in refused(path)


@pytest.fixture
def modern(tmp_path: Path, lift: Taken) -> Recording:
    """Two episodes as `lfm collect` writes them."""
    return read_hdf5(write(tmp_path / "new.hdf5", FORMS["robomimic v1.5"], [lift, lift.head(7)]))


def test_back_to_robosuites_layout_and_read_again(tmp_path: Path, modern: Recording, lift: Taken) -> None:
    path = tmp_path / "raw" / "demo.hdf5"
    write_robosuite(path, modern, (episode for _, episode in modern.episodes()))
    again = read_hdf5(path)
    assert again.layout == "robosuite demo.hdf5"
    assert list(again.names) == ["demo_1", "demo_2"]
    for name, steps in (("demo_1", len(lift.actions)), ("demo_2", 7)):
        episode = again.read(name)
        np.testing.assert_array_equal(episode.states, lift.states[:steps])
        np.testing.assert_array_equal(episode.actions, lift.actions[:steps])
        assert episode.attrs == {"model_file": lift.model_file}
    assert again.env_args["env_version"] == "1.5.1"
    right = again.env_args["env_kwargs"]["controller_configs"]["body_parts"]["right"]
    assert right["input_ref_frame"] == "world"


def test_robosuites_playback_shows_it(tmp_path: Path, modern: Recording, lift: Taken) -> None:
    """Every call of its playback_demonstrations_from_hdf5.py, which itself needs a screen and never ends."""
    from envs.simulator import load_robosuite

    path = tmp_path / "demo.hdf5"
    write_robosuite(path, modern, (episode for _, episode in modern.episodes()))
    with h5py.File(path, "r") as file:
        env_info = json.loads(file["data"].attrs["env_info"])
        assert file["data"].attrs["env"] == "Lift"
        env = load_robosuite().make(
            **env_info,
            has_renderer=False,
            has_offscreen_renderer=False,
            ignore_done=True,
            use_camera_obs=False,
            reward_shaping=True,
            control_freq=20,
        )
        demos = list(file["data"].keys())
        for name in demos:
            model_xml = file[f"data/{name}"].attrs["model_file"]
            env.reset()
            env.reset_from_xml_string(env.edit_model_xml(model_xml))
            env.sim.reset()
            for state in file[f"data/{name}/states"][()]:
                env.sim.set_state_from_flattened(state)
                env.sim.forward()
                np.testing.assert_array_equal(env.sim.get_state().flatten(), state)
            # the last state is before the last action; the expert holds on after success
            assert env._check_success() == (name == "demo_1")
        env.close()
    assert lift.rewards[-2] == 1


def _failing(modern: Recording) -> Iterator[Episode]:
    yield modern.read("demo_0")
    raise KeyboardInterrupt


def test_nothing_half_written_or_lost(tmp_path: Path, modern: Recording) -> None:
    path = tmp_path / "demo.hdf5"
    with pytest.raises(KeyboardInterrupt):
        write_robosuite(path, modern, _failing(modern))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.hdf5"]
    path.write_text("mine")
    with pytest.raises(LFMError, match="exists already"):
        write_robosuite(path, modern, _failing(modern))
    with pytest.raises(KeyboardInterrupt):
        write_robosuite(path, modern, _failing(modern), overwrite=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kwargs": {"control_freq": 10}}, "control_freq is 10"),
        ({"type": 2}, "name no environment of robosuite"),
        ({"states": False}, "episode 1 has no states"),
        ({"model": False}, "episode 1 has no attribute model_file"),
    ],
)
def test_what_robosuites_layout_cannot_hold(
    tmp_path: Path, modern: Recording, change: dict[str, Any], told: str
) -> None:
    from dataclasses import replace

    env_args = {**modern.env_args, "type": change.get("type", 1)}
    env_args["env_kwargs"] = {**env_args["env_kwargs"], **change.get("kwargs", {})}
    episode = modern.read("demo_1")
    episode = episode if change.get("states", True) else replace(episode, states=None)
    episode = episode if change.get("model", True) else replace(episode, attrs={})
    path = tmp_path / "demo.hdf5"
    with pytest.raises(LFMError, match=told):
        write_robosuite(path, replace(modern, env_args=env_args), [episode])
    assert not list(tmp_path.glob("demo.hdf5*"))
