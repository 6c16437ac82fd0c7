"""Action codes: bounds of the action space, and conversion of what a policy says to what robosuite takes."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

ROTATIONS = ("axis_angle", "rotation_6d")
ROTATION_DIM = {"axis_angle": 3, "rotation_6d": 6}
# generous and finite: samplers and range checks need bounds, the controller has none for absolute actions
POSITION_BOUND = 2.0
ROTATION_BOUND = {"axis_angle": 2 * np.pi, "rotation_6d": 1.0}

Array = NDArray[np.float64]


def action_box(representation: str, rotation: str, n_arms: int) -> spaces.Box:
    """float32 Box of the actions: [-1, 1] for delta, metres and radians (or matrix rows) for absolute."""
    if representation == "delta":
        high = np.ones(7)
    else:
        bound = ROTATION_BOUND[rotation]
        high = np.concatenate([np.full(3, POSITION_BOUND), np.full(ROTATION_DIM[rotation], bound), [1.0]])
    high = np.tile(high, n_arms).astype(np.float32)
    return spaces.Box(-high, high, dtype=np.float32)


def rotation_6d_to_rotvec(rows: Array) -> Array:
    """Axis-angle (3,) of the matrix whose first two rows, made orthonormal by Gram-Schmidt, are rows (6,)."""
    first, second = rows[:3], rows[3:]
    length = np.linalg.norm(first)
    if length > 1e-6:
        first = first / length
        second = second - first @ second * first
        length = np.linalg.norm(second)
    if length <= 1e-6:
        raise ValueError(f"action: {rows.tolist()} are no two rows of a rotation matrix (null or parallel)")
    second = second / length
    matrix = np.stack([first, second, np.cross(first, second)])
    return Rotation.from_matrix(matrix).as_rotvec()


def to_axis_angle(action: Array, rotation: str, n_arms: int) -> Array:
    """Absolute action in axis-angle form, (7 * n_arms,), from one in the given rotation code."""
    if rotation == "axis_angle":
        return action
    arms = [np.concatenate([arm[:3], rotation_6d_to_rotvec(arm[3:9]), arm[9:]]) for arm in np.split(action, n_arms)]
    return np.concatenate(arms)
