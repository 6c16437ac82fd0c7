"""Delta and absolute actions, their codes, and the settings that decide what they do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs import actions, controllers, simulator
from tests.envs.helpers import demonstration, random_actions, trajectory


def to_rotation_6d(action: np.ndarray) -> np.ndarray:
    """Absolute action with the first two rows of the matrix instead of the rotation vector."""
    arms = []
    for arm in np.split(action, action.size // 7):
        rows = Rotation.from_rotvec(arm[3:6]).as_matrix()[:2].ravel()
        arms.append(np.concatenate([arm[:3], rows, arm[6:]]))
    return np.concatenate(arms)


@pytest.mark.parametrize("frame", ["world", "base"])
def test_absolute_replay_of_a_demonstration(make, frame):
    """4e-9 with the numbers as recorded, 1e-6 when rounded to the action space's float32."""
    common = {"terminate_on_success": False, "frame": frame}
    demo = demonstration(make("Lift", **common), 1)
    for rotation, code in (("axis_angle", np.array), ("rotation_6d", to_rotation_6d)):
        env = make("Lift", **common, representation="absolute", rotation=rotation)
        absolute = np.array([code(action) for action in demo["actions_abs"]])
        np.testing.assert_allclose(trajectory(env, absolute, seed=1)[1], demo["states"], atol=1e-7)
        assert env.unwrapped.is_success()
    rounded = absolute.astype(np.float32)
    assert all(action in env.action_space for action in rounded)
    np.testing.assert_allclose(trajectory(env, rounded, seed=1)[1], demo["states"], atol=1e-5)


@pytest.mark.parametrize("frame", ["world", "base"])
def test_absolute_replay_with_two_arms(make, frame):
    common = {"terminate_on_success": False, "frame": frame}
    delta = make("Transport", **common)
    absolute = make("Transport", **common, representation="absolute", rotation="rotation_6d")
    delta.reset(seed=0)
    taken, states = [], [delta.unwrapped.get_state()["states"]]
    for action in 0.5 * random_actions(delta, 10):
        taken.append(to_rotation_6d(delta.step(action)[4]["actions_abs"]))
        states.append(delta.unwrapped.get_state()["states"])
    np.testing.assert_allclose(trajectory(absolute, np.array(taken), seed=0)[1], states, atol=1e-6)


def test_absolute_environment_reports_the_action_it_was_given(make):
    env = make("Lift", terminate_on_success=False, representation="absolute")
    env.reset(seed=0)
    action = np.array([-0.1, 0.05, 1.0, 2.2, 2.2, 0.1, 1.0])
    np.testing.assert_allclose(env.step(action)[4]["actions_abs"], action, atol=1e-12)


def test_frames_differ_where_the_base_is_turned(make):
    """Transport's arms face each other: along world x both move alike, along their own x towards each other."""
    push = np.tile([1.0, 0, 0, 0, 0, 0, -1], 2)
    moves = {}
    for frame in ("world", "base"):
        env = make("Transport", terminate_on_success=False, frame=frame)
        start, _ = env.reset(seed=0)
        for _ in range(6):
            end = env.step(push)[0]
        moves[frame] = [end[f"robot{i}_eef_pos"] - start[f"robot{i}_eef_pos"] for i in range(2)]
    for move, axis in zip(moves["world"] + moves["base"], (0, 0, 1, 1), strict=True):
        assert np.abs(move).argmax() == axis
        assert np.abs(move[axis]) > 0.03
    assert moves["world"][0][0] > 0 < moves["world"][1][0]
    assert moves["base"][0][1] > 0 > moves["base"][1][1]


def test_delta_actions_outside_the_box_are_clipped(lift):
    plenty = 3 * random_actions(lift, 10)
    clipped = np.clip(plenty, -1, 1)
    np.testing.assert_array_equal(trajectory(lift, plenty, seed=2)[1], trajectory(lift, clipped, seed=2)[1])


def test_rotation_6d_is_gram_schmidt_on_rows():
    """Any two independent rows give a rotation whose first row has their direction and whose plane is theirs."""
    rng = np.random.default_rng(0)
    for rows in rng.normal(size=(50, 6)):
        matrix = Rotation.from_rotvec(actions.rotation_6d_to_rotvec(rows)).as_matrix()
        np.testing.assert_allclose(matrix[0], rows[:3] / np.linalg.norm(rows[:3]), atol=1e-9)
        assert matrix[1] @ rows[3:] > 0
        assert abs(matrix[2] @ rows[3:]) < 1e-9
    exact = Rotation.random(50, random_state=0)
    for matrix in exact.as_matrix():
        again = Rotation.from_rotvec(actions.rotation_6d_to_rotvec(matrix[:2].ravel()))
        np.testing.assert_allclose(again.as_matrix(), matrix, atol=1e-9)
    for degenerate in (np.zeros(6), np.array([1.0, 0, 0, 2, 0, 0])):
        with pytest.raises(ValueError, match="rotation matrix"):
            actions.rotation_6d_to_rotvec(degenerate)


def test_controller_defaults_are_robosuites():
    simulator.load_robosuite()
    from robosuite.controllers import load_composite_controller_config

    theirs = load_composite_controller_config(robot="Panda")["body_parts"]["right"]
    assert theirs == controllers.ARM_DEFAULTS


ARM = controllers.ARM_DEFAULTS
COMPOSITE = {"type": "BASIC", "body_parts": {"right": ARM}}
OLD = {"type": "OSC_POSE", "kp": 150, "damping": 1, "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3}


def convention(config: object, **kwargs: str) -> tuple[object, ...]:
    """Everything that decides what an action does under a config."""
    whole = controllers.normalise(config, 1, **kwargs)
    arm = whole["body_parts"]["right"]
    return controllers.convention(whole), arm["input_type"], arm["input_ref_frame"]


def test_configs_that_act_equally_compare_equal():
    assert convention(None) == convention(COMPOSITE, frame="world")
    assert convention(COMPOSITE) == convention({"type": "BASIC", "body_parts": {"arms": {"right": ARM}}})
    assert convention(COMPOSITE) == convention([COMPOSITE])
    assert convention(None) == convention(OLD)
    assert convention(OLD | {"control_delta": False}) == convention(None, representation="absolute")
    dead = ARM | {"damping": 1, "control_delta": False, "damping_limits": [0, 10]}
    assert convention({"body_parts": {"right": dead}}) == convention(COMPOSITE)
    scalar = ARM | {"output_max": 0.05, "output_min": -0.05}
    vector = ARM | {"output_max": [0.05] * 6, "output_min": [-0.05] * 6}
    assert convention({"body_parts": {"right": scalar}}) == convention({"body_parts": {"right": vector}})


@pytest.mark.parametrize(
    "change",
    [
        {"kp": 100},
        {"damping_ratio": 2},
        {"output_max": [0.1] * 6},
        {"input_type": "absolute"},
        {"input_ref_frame": "world"},
        {"uncouple_pos_ori": False},
    ],
    ids=str,
)
def test_configs_that_act_differently_compare_unequal(change):
    assert convention({"body_parts": {"right": ARM | change}}) != convention(COMPOSITE)


@pytest.mark.parametrize(
    "change", [{"impedance_mode": "variable"}, {"interpolation": "linear"}, {"position_limits": [0, 1]}], ids=str
)
def test_settings_that_are_not_offered_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .*is supported"):
        convention({"body_parts": {"right": ARM | change}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("OSC_POSE", "controller_configs: 'OSC_POSE' is of type str, not a dict; give robosuite's settings"),
        (5, "controller_configs: 5 is of type int, not a dict; give"),
        ([None], "controller_configs: None is of type NoneType, not a dict; give"),
        ({"body_parts": ["right"]}, "controller_configs.body_parts: .* is of type list, not a dict; .*'right'"),
        ({"body_parts": {"arms": "right"}}, "controller_configs.body_parts.arms: 'right' is of type str, not a dict"),
        ({"body_parts": {"right": "OSC_POSE"}}, "controller_configs.body_parts.right: 'OSC_POSE' is of type str"),
        ({"body_parts": {"left": ARM}}, "controller_configs.body_parts.* has no 'right'; the Panda's arm goes"),
        ([], "controller_configs: 1 equal configs expected"),
    ],
    ids=str,
)
def test_what_is_no_config_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        convention(config)
