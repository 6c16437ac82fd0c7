"""Poses: checked against 4 x 4 matrices and against complex numbers, in which a turn to the left is a factor of i."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs.experts.poses import UP, Pose, carried, face_yaws, hand_rotation, pointing_down, wrap, yaw_of


def random_pose(seed: int) -> Pose:
    position = np.random.default_rng(seed).normal(size=3)
    return Pose(position, Rotation.random(random_state=seed).as_matrix())


def matrix(pose: Pose) -> np.ndarray:
    return np.block([[pose.rotation, pose.position[:, None]], [np.zeros(3), 1.0]])


def test_what_is_carried_keeps_its_place_in_the_hand():
    hand, held, goal = (random_pose(seed) for seed in range(3))
    after = carried(hand, held, goal)
    grip = np.linalg.inv(matrix(hand)) @ matrix(held)
    np.testing.assert_allclose(matrix(after) @ grip, matrix(goal), atol=1e-12)


def test_moves_of_a_pose_keep_its_rotation():
    pose = random_pose(3)
    for moved, position in (
        (pose.raised(0.2), pose.position + 0.2 * UP),
        (pose.at_height(0.7), [*pose.position[:2], 0.7]),
        (pose.along_approach(-0.1), (matrix(pose) @ [0, 0, -0.1, 1])[:3]),
    ):
        np.testing.assert_allclose(moved.position, position, atol=1e-12)
        np.testing.assert_array_equal(moved.rotation, pose.rotation)


def test_distance_is_metres_and_radians():
    pose = random_pose(4)
    turn = Rotation.from_rotvec([0.3, -0.4, 0.0]).as_matrix()
    assert pose.distance(Pose(pose.position + np.array([0.3, 0, 0.4]), turn @ pose.rotation)) == pytest.approx(
        (0.5, 0.5)
    )


@pytest.mark.parametrize("yaw", [-3.0, -0.4, 0.0, 2.5])
def test_a_hand_that_points_down_closes_along_its_yaw(yaw):
    rotation = pointing_down(yaw)
    np.testing.assert_allclose(rotation, Rotation.from_euler("ZX", [yaw, np.pi]).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotation[:, 2], -UP, atol=1e-12)
    assert yaw_of(rotation) == pytest.approx(yaw)


def test_a_hands_rotation_is_one():
    turned = Rotation.random(random_state=5).as_matrix()
    np.testing.assert_allclose(hand_rotation(turned[:, 0], turned[:, 2]), turned, atol=1e-12)


@pytest.mark.parametrize("angle", [-10.0, -np.pi, -1.0, 0.0, 3.0, 3.3, 50.0])
def test_wrapped_angles_are_the_same_within_half_a_turn(angle):
    assert np.exp(1j * wrap(angle)) == pytest.approx(np.exp(1j * angle))
    assert -np.pi <= wrap(angle) <= np.pi


@pytest.mark.parametrize("cube_yaw", [-2.9, -0.3, 0.7, 1.9])
@pytest.mark.parametrize("yaw", [-3.0, 0.0, 1.0])
def test_yaws_across_a_cubes_faces_come_in_the_order_of_the_turn_they_ask_for(cube_yaw, yaw):
    yaws = np.array(face_yaws(Rotation.from_euler("z", cube_yaw).as_matrix(), yaw))
    np.testing.assert_allclose(np.exp(4j * yaws), np.exp(4j * cube_yaw), atol=1e-9)
    assert len(set(np.round(np.exp(1j * yaws), 6))) == 4
    turns = np.abs(np.angle(np.exp(1j * (yaws - yaw))))
    assert (np.diff(turns) >= 0).all()
    np.testing.assert_allclose(np.abs(yaws - yaw), turns, atol=1e-9)
