"""The columns of `object` are what they are called, in robosuite 1.5's order: compared with MuJoCo's own positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.envs.helpers import random_actions

HAND = "gripper{}_right_grip_site"


def observed(env: Any) -> tuple[np.ndarray, Any]:
    """`object` and MuJoCo's data in a state in which nothing stands still any more."""
    env.reset(seed=0)
    for action in random_actions(env, 4):
        env.step(action)
    inner = env.unwrapped
    # as of now: what a step gives is a substep older
    return inner.observe()["object"], inner.sim_env.sim.data


def assert_poses(columns: list[np.ndarray], bodies: list[str], data: Any) -> None:
    """Of pairs of columns: position, and quaternion with its real part last."""
    for body, position, quaternion in zip(bodies, columns[::2], columns[1::2], strict=True):
        np.testing.assert_allclose(position, data.get_body_xpos(body), atol=1e-6)
        np.testing.assert_allclose(Rotation.from_quat(quaternion).as_matrix(), data.get_body_xmat(body), atol=1e-6)


def test_lifts_columns(lift):
    columns, data = observed(lift)
    position, quaternion, from_hand = np.split(columns, [3, 7])
    assert_poses([position, quaternion], ["cube_main"], data)
    # the cube against the hand; in robosuite 1.4 it was the hand against the cube
    hand = data.get_site_xpos(HAND.format(0))
    np.testing.assert_allclose(from_hand, data.get_body_xpos("cube_main") - hand, atol=1e-6)


def test_transports_columns(make):
    columns, data = observed(make("Transport", terminate_on_success=False))
    split = np.split(columns, [3, 7, 10, 14, 17, 21, 24, 27, 28, 29, 32, 35, 38])
    payload, trash = data.get_body_xpos("payload_root"), data.get_body_xpos("trash_main")
    handle = data.get_geom_xpos("transport_start_bin_lid_handle")
    assert_poses(split[:4], ["payload_root", "trash_main"], data)
    np.testing.assert_allclose(split[4], handle, atol=1e-6)
    lid = data.get_body_xmat("transport_start_bin_lid_root")
    np.testing.assert_allclose(Rotation.from_quat(split[5]).as_matrix(), lid, atol=1e-6)
    for column, bin_name in zip(split[6:8], ("target", "trash"), strict=True):
        np.testing.assert_allclose(column, data.get_geom_xpos(f"transport_{bin_name}_bin_base"), atol=1e-6)
    assert (*split[8], *split[9]) == (0.0, 0.0)
    giver, taker = (data.get_site_xpos(HAND.format(arm)) for arm in range(2))
    for column, way in zip(split[10:], (payload - giver, handle - giver, payload - taker, trash - taker), strict=True):
        np.testing.assert_allclose(column, way, atol=1e-6)


@pytest.mark.parametrize(
    ("moved", "flags"), [((), (0, 0)), (("payload",), (1, 0)), (("trash",), (0, 1)), (("payload", "trash"), (1, 1))]
)
def test_transports_flags_tell_what_lies_in_which_bin(make, moved, flags):
    """Put into the other bin as they lay in theirs; both together are the task's success."""
    env = make("Transport", terminate_on_success=False)
    env.reset(seed=0)
    for _ in range(20):
        # what was dropped at the reset comes to rest
        env.step(np.zeros(14))
    inner = env.unwrapped
    data, model, states = inner.sim_env.sim.data, inner.sim_env.sim.model, inner.get_state()["states"]
    for item, start, end in (("payload", "start", "target"), ("trash", "target", "trash")):
        if item in moved:
            way = [data.get_body_xpos(f"transport_{name}_bin_root") for name in (end, start)]
            address = 1 + model.get_joint_qpos_addr(f"{item}_joint0")[0]
            states[address : address + 3] += way[0] - way[1]
    inner.set_states(states)
    assert tuple(inner.observe()["object"][27:29]) == flags
    assert inner.is_success() == all(flags)


@pytest.mark.parametrize(
    ("task", "objects"),
    [
        ("Can", [("body", "Can_main")]),
        ("Square", [("body", "SquareNut_main")]),
        ("ToolHang", [("geom", "stand_base"), ("site", "frame_intersection_site"), ("body", "tool_root")]),
    ],
    ids=["Can", "Square", "ToolHang"],
)
def test_blocks_tell_of_their_own_objects(make, task, objects):
    columns, data = observed(make(task, terminate_on_success=False))
    for block, (kind, name) in zip(columns[: 14 * len(objects)].reshape(-1, 14), objects, strict=True):
        position, orientation = block[7:10], Rotation.from_quat(block[10:])
        np.testing.assert_allclose(position, getattr(data, f"get_{kind}_xpos")(name), atol=1e-6)
        matrix = getattr(data, f"get_{kind}_xmat")(name)
        np.testing.assert_allclose(orientation.as_matrix(), matrix, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "blocks"), [("Can", 1), ("Square", 1), ("ToolHang", 3)], ids=["Can", "Square", "ToolHang"]
)
def test_first_observation_has_relative_poses_that_agree_with_the_absolute_ones(make, task, blocks):
    """robosuite leaves zeros there. Blocks of 14: position and quaternion in the hand's frame, then in the world's."""
    env = make(task, terminate_on_success=False)
    fresh, _ = env.reset(seed=0)
    restored, _ = env.reset(options={"state": env.unwrapped.get_state()})
    for observation in (fresh, restored):
        hand = Rotation.from_quat(observation["robot0_eef_quat"])
        for block in observation["object"][: 14 * blocks].reshape(blocks, 14):
            relative, rotation, position, orientation = np.split(block, [3, 7, 10])
            expected = hand.inv().apply(position - observation["robot0_eef_pos"])
            # robosuite computes in single precision
            np.testing.assert_allclose(relative, expected, atol=1e-6)
            turned = hand.inv() * Rotation.from_quat(orientation)
            assert (turned.inv() * Rotation.from_quat(rotation)).magnitude() < 1e-5
