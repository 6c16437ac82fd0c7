"""Poses of hands and objects in the world frame, and how one follows from another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

UP = np.array([0.0, 0.0, 1.0])


class Pose(NamedTuple):
    """Position (3,) in metres and rotation matrix (3, 3), world frame.

    A hand's fingers close along the first column of its rotation; it points along the third.
    """

    position: Array
    rotation: Array

    def distance(self, other: Pose) -> tuple[float, float]:
        """Metres and radians to another pose."""
        angle = Rotation.from_matrix(other.rotation @ self.rotation.T).magnitude()
        return float(np.linalg.norm(other.position - self.position)), float(angle)

    def moved(self, by: Array) -> Pose:
        """The pose moved by a world vector (3,)."""
        return Pose(self.position + by, self.rotation)

    def raised(self, metres: float) -> Pose:
        """The pose moved straight up."""
        return self.moved(metres * UP)

    def at_height(self, height: float) -> Pose:
        """The pose brought straight up or down to a world height (metres)."""
        return Pose(np.append(self.position[:2], height), self.rotation)

    def along_approach(self, metres: float) -> Pose:
        """The pose of a hand, moved along where it points."""
        return self.moved(metres * self.rotation[:, 2])


def hand_rotation(closing: Array, approach: Array) -> Array:
    """Rotation (3, 3) of a hand by the world directions that its fingers close along and that it points to."""
    return np.column_stack([closing, np.cross(approach, closing), approach])


def pointing_down(yaw: float) -> Array:
    """Rotation (3, 3) of a hand pointing down, its fingers closing along the world direction `yaw` (rad)."""
    return hand_rotation(np.array([np.cos(yaw), np.sin(yaw), 0.0]), -UP)


def carried(hand: Pose, held: Pose, goal: Pose) -> Pose:
    """The hand's pose that brings what it holds from the pose `held` to `goal`."""
    turn = goal.rotation @ held.rotation.T
    return Pose(goal.position + turn @ (hand.position - held.position), turn @ hand.rotation)


def yaw_along(vector: Array) -> float:
    """Direction of a vector (3,) seen from above (rad)."""
    return float(np.arctan2(vector[1], vector[0]))


def yaw_of(rotation: Array) -> float:
    """Direction of a rotation's x axis seen from above (rad)."""
    return yaw_along(rotation[:, 0])


def wrap(angle: float) -> float:
    """The angle within half a turn of 0 (rad)."""
    return float(np.mod(angle + np.pi, 2 * np.pi) - np.pi)


def face_yaws(cube: Array, yaw: float) -> list[float]:
    """The four yaws across faces of an upright cube of rotation (3, 3), the nearest to `yaw` first (rad)."""
    turns = (wrap(yaw_of(cube) + quarter * np.pi / 2 - yaw) for quarter in range(4))
    return [yaw + turn for turn in sorted(turns, key=abs)]
