"""What gymnasium, robomimic and callers who make mistakes are promised."""

from __future__ import annotations

import json
import warnings
from importlib import metadata

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import register_envs, simulator
from envs.robosuite_env import RobosuiteEnv
from envs.tasks import TASKS
from tests.conversion.layouts import IN_COMPOSITE, composite
from tests.envs.helpers import demonstration, random_actions, run, trajectory


def test_entry_point_and_import_register_without_loading_a_simulator():
    code = (
        "import sys, gymnasium; from importlib import metadata\n"
        "[entry] = metadata.entry_points(group='gymnasium.envs', name='lfm')\n"
        "entry.load()(); entry.load()()\n"
        "print(*[i for i in gymnasium.registry if i.startswith('lfm/')])\n"
        "assert not {'robosuite', 'mujoco', 'lfm_policy', 'torch'} & set(sys.modules)\n"
    )
    ids = "lfm/Lift-v0 lfm/Can-v0 lfm/Square-v0 lfm/Transport-v0 lfm/ToolHang-v0 lfm/PushT-v0"
    assert run(code).stdout.split() == ids.split()


def test_specs_hold_what_a_dataset_is_matched_by():
    register_envs()
    horizons = {}
    for env_name in TASKS:
        [spec] = [s for s in gymnasium.registry.values() if s.kwargs.get("env_name") == env_name]
        horizons[env_name] = spec.max_episode_steps
    assert horizons == {
        "Lift": 400,
        "PickPlaceCan": 400,
        "NutAssemblySquare": 400,
        "TwoArmTransport": 700,
        "ToolHang": 700,
    }


def test_check_env_has_nothing_to_say(has_opengl):
    env = gymnasium.make("lfm/Lift-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=not has_opengl)


def test_check_env_of_absolute_actions_only_recommends_normalised_ones():
    env = gymnasium.make("lfm/Lift-v0", representation="absolute", rotation="rotation_6d")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    assert all("we recommend using a symmetric and normalized space" in str(w.message) for w in caught)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("task", "object_dim", "total", "action_dim"),
    [
        ("Lift", 10, 19, 7),
        ("Can", 14, 23, 7),
        ("Square", 14, 23, 7),
        ("Transport", 41, 59, 14),
        ("ToolHang", 44, 53, 7),
    ],
)
def test_dimensions_are_those_of_robomimic(make, task, object_dim, total, action_dim):
    env = make(task, terminate_on_success=False)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert next(iter(observation)) == "object"
    assert observation["object"].shape == (object_dim,)
    assert sum(value.size for value in observation.values()) == total
    assert env.action_space.shape == (action_dim,)
    assert all(point.shape == (3,) and np.isfinite(point).all() for point in info["positions"].values())
    observation, reward, terminated, truncated, info = env.step(np.zeros(action_dim))
    assert observation in env.observation_space
    assert (reward, terminated, truncated, info["is_success"]) == (0.0, False, False, False)
    assert info["actions_abs"].shape == (action_dim,)


def test_env_args_rebuild_the_same_environment_through_robosuite_itself(lift):
    """What robomimic does with a dataset's env_args."""
    args = json.loads(json.dumps(lift.unwrapped.env_args))
    assert (args["env_name"], args["type"]) == ("Lift", 1)
    assert args["env_version"] == metadata.version("robosuite")
    plain = simulator.load_robosuite().make(args["env_name"], **args["env_kwargs"])
    again = gymnasium.make("lfm/Lift-v0", **args["env_kwargs"], terminate_on_success=False).unwrapped
    assert again.env_args == args
    assert again.action_convention == lift.unwrapped.action_convention

    actions = random_actions(lift, 20)
    observations, states = trajectory(lift, actions, seed=3)
    np.testing.assert_array_equal(trajectory(again, actions, seed=3)[1], states)
    plain.reset()
    plain.reset_from_xml_string(lift.unwrapped.get_state()["model_file"])
    plain.sim.set_state_from_flattened(states[0])
    plain.sim.forward()
    joints = plain.robots[0]._joint_positions
    plain.robots[0].part_controllers["right"].update_initial_joints(joints)
    # the solver's warm start differs after a reset that is not ours
    for action, state, expected in zip(actions, states[1:], observations[1:], strict=True):
        plain_observation = plain.step(action)[0]
        np.testing.assert_allclose(plain.sim.get_state().flatten(), state, atol=1e-4)
        # an observation that is a substep older would differ by 1e-3
        np.testing.assert_allclose(plain_observation["object-state"], expected[:10], atol=1e-5)


def test_datasets_keyword_arguments_are_accepted_and_renderers_overruled(lift):
    """The env_kwargs of robomimic's v1.5 files, dead keys of the controller included."""
    env = gymnasium.make(
        "lfm/Lift-v0",
        has_renderer=False,
        has_offscreen_renderer=True,
        ignore_done=True,
        use_object_obs=True,
        use_camera_obs=True,
        control_freq=20,
        controller_configs=composite(IN_COMPOSITE),
        robots=["Panda"],
        camera_depths=False,
        camera_heights=84,
        camera_widths=84,
        camera_names=["agentview"],
        lite_physics=False,
        reward_shaping=False,
        terminate_on_success=False,
    )
    assert env.unwrapped.action_convention == lift.unwrapped.action_convention
    actions = random_actions(lift, 10)
    for ours, theirs in zip(trajectory(lift, actions, seed=1), trajectory(env, actions, seed=1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert env.unwrapped.sim_env.sim._render_context_offscreen is None


def test_success_ends_the_episode_only_if_asked(make, lift):
    actions = demonstration(lift, 0)["actions"]
    ending = make("Lift")
    ending.reset(seed=0)
    lift.reset(seed=0)
    for action in actions:
        _, reward, terminated, _, info = ending.step(action)
        assert not lift.step(action)[2]
        assert terminated == info["is_success"] == bool(reward) == ending.unwrapped.is_success()
        if terminated:
            break
    assert terminated


def test_nothing_is_said_and_no_renderer_is_made_unless_frames_are_asked_for():
    code = (
        "import sys, gymnasium, envs, mujoco\n"
        "def refuse(*a, **k): raise AssertionError('a renderer was made')\n"
        "mujoco.MjrContext = mujoco.MjvScene = mujoco.Renderer = refuse\n"
        "env = gymnasium.make('lfm/Lift-v0', has_offscreen_renderer=True, use_camera_obs=True)\n"
        "env.reset(seed=0); env.step(env.action_space.sample()); assert env.unwrapped.render() is None\n"
        "env.close(); assert 'OpenGL' not in sys.modules, 'OpenGL was loaded'\n"
    )
    done = run(code)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rotation": "rotation_6d"}, "add representation='absolute'"),
        ({"rotation": "euler"}, "rotation 'euler': choose from axis_angle, rotation_6d"),
        ({"representation": "velocity"}, "input_type is 'velocity'; choose from delta, absolute"),
        ({"frame": "hand"}, "input_ref_frame is 'hand'; choose from world, base"),
        ({"render_mode": "human"}, "render_mode 'human'"),
        ({"render_size": 0}, "render_size 0"),
        ({"camera": "nowhere"}, "camera 'nowhere' is not in lfm/Lift-v0; cameras: frontview"),
        ({"robots": ["Sawyer"]}, "only ['Panda'] is supported"),
        ({"seed": 1}, "give it to reset(seed=...)"),
        ({"lite_physic": True}, "did you mean 'lite_physics'?"),
        ({"robots": 5}, "robots 5; only ['Panda'] is supported"),
        ({"gripper_types": "Robotiq85Gripper"}, "gripper_types 'Robotiq85Gripper'; only the Panda's is supported"),
        ({"gripper_types": None}, "gripper_types None; only the Panda's is supported"),
        ({"gripper_types": []}, "gripper_types []; only the Panda's is supported"),
        ({"control_freq": "fast"}, "control_freq 'fast'; must be a whole number of steps a second from 1 to 500"),
        ({"control_freq": 0}, "control_freq 0; must be"),
        ({"control_freq": 1000}, "control_freq 1000; must be"),
        ({"control_freq": 20.7}, "control_freq 20.7; must be"),
        ({"controller_configs": {"type": "IK_POSE"}}, "type is 'IK_POSE'; only 'OSC_POSE' is supported"),
        ({"controller_configs": {"type": "OSC_POSE", "input_max": 5}}, "input_max is 5; only 1 is supported"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(kwargs, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        RobosuiteEnv("Lift", **kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_settings_may_be_told_in_other_words(lift):
    """As older recordings and robosuite's own files have them."""
    controller = {"type": "OSC_POSE", "input_max": [1.0] * 6, "input_min": (-1,) * 6}
    told = {"control_freq": np.int64(20), "gripper_types": ["default"], "controller_configs": controller}
    env = RobosuiteEnv("Lift", **told, terminate_on_success=False)
    assert env.action_convention == lift.unwrapped.action_convention
    actions = random_actions(lift, 5)
    for ours, theirs in zip(trajectory(lift, actions, seed=1), trajectory(env, actions, seed=1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_wrong_actions_and_options_are_named_in_one_line(lift):
    lift.reset(seed=0)
    bad = np.zeros(7)
    bad[4] = np.nan
    for action, message in ((bad, r"action\[4\] is nan"), (np.zeros(8), r"shape \(8,\); \(7,\) expected")):
        with pytest.raises(ValueError, match=message):
            lift.step(action)
    states = lift.unwrapped.get_state()["states"]
    for options, message in (
        ({"stat": {}}, "reset option 'stat' is unknown"),
        ({"state": states}, "^reset option 'state': ndarray is no dict; give what get_state gives$"),
        ({"state": {"model_file": ""}}, "'states' is missing"),
        ({"state": {"states": states, "model": ""}}, "unknown key 'model'"),
        ({"state": {"states": states[1:]}}, r"shape \(31,\); \(32,\) expected"),
        ({"state": {"states": states, "initial_joint": [0]}}, r"initial_joint'\]: shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            lift.reset(options=options)
    fresh = gymnasium.make("lfm/Lift-v0").unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        fresh.step(np.zeros(7))


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "robosuite is not installed"),
        ({"robosuite": "1.4.1", "mujoco": "3.3.0"}, "robosuite 1.4.1: the environments need robosuite 1.5.x"),
        ({"robosuite": "1.5.2", "mujoco": "3.10.0"}, "mujoco 3.10.0: robosuite 1.5 works with mujoco >=3.3,<3.10"),
        ({"robosuite": "1.5.2"}, "mujoco is not installed"),
    ],
)
def test_missing_or_unfit_simulator_is_named_with_its_remedy(monkeypatch, versions, message):
    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(simulator.metadata, "version", version)
    with pytest.raises(ImportError) as caught:
        gymnasium.make("lfm/Lift-v0")
    assert message in str(caught.value)
    assert "pip install 'lfm_policy[sim]'" in str(caught.value)
