"""Rotations of any leading shape: axis-angle, matrix, 6-D (its first two rows), quaternion (x, y, z, w).

6-D: Zhou et al. 2019, "On the continuity of rotation representations in neural networks".
Every function has finite gradients at the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_policy.flow.errors import LFMError


def axis_angle_to_quaternion(axis_angle: Tensor) -> Tensor:
    """Rotation vector (..., 3) in radians to unit quaternion (..., 4)."""
    angle, small = _safe_norm(axis_angle)
    # sin(a/2)/a and cos(a/2), with their Taylor series where a division by a would lose its digits
    square = (axis_angle**2).sum(-1, keepdim=True)
    vector = torch.where(small, 0.5 - square / 48, (angle / 2).sin() / angle)
    scalar = torch.where(small, 1 - square / 8, (angle / 2).cos())
    return torch.cat([axis_angle * vector, scalar], dim=-1)


def quaternion_to_axis_angle(quaternion: Tensor) -> Tensor:
    """Unit quaternion (..., 4) to the rotation vector (..., 3) of angle at most pi."""
    quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    vector, scalar = quaternion[..., :3], quaternion[..., 3:]
    norm, small = _safe_norm(vector)
    square = (vector**2).sum(-1, keepdim=True)
    return vector * torch.where(small, 2 + square / 3, 2 * torch.atan2(norm, scalar) / norm)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Unit quaternion (..., 4) to rotation matrix (..., 3, 3)."""
    x, y, z, w = quaternion.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], dim=-1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], dim=-1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) to the unit quaternion (..., 4) with w >= 0.

    The entries of 4·q·qᵀ are sums of the matrix's; its row with the largest diagonal is a multiple of q that
    never vanishes, so nothing is divided by a small number, whatever the angle.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    outer = [
        torch.stack([1 + a - e - i, b + d, c + g, h - f], dim=-1),
        torch.stack([b + d, 1 - a + e - i, f + h, c - g], dim=-1),
        torch.stack([c + g, f + h, 1 - a - e + i, d - b], dim=-1),
        torch.stack([h - f, c - g, d - b, 1 + a + e + i], dim=-1),
    ]
    products = torch.stack(outer, dim=-2)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation vector (..., 3) in radians to rotation matrix (..., 3, 3)."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) to the rotation vector (..., 3) of angle at most pi."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def matrix_to_rotation_6d(matrix: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) to its first two rows (..., 6)."""
    return matrix[..., :2, :].flatten(-2)


def rotation_6d_to_matrix(rotation: Tensor) -> Tensor:
    """Any six numbers (..., 6), not parallel in their halves, to the matrix (..., 3, 3) by Gram-Schmidt."""
    first = torch.nn.functional.normalize(rotation[..., :3], dim=-1)
    second = rotation[..., 3:]
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def actions_to_rotation_6d(actions: Tensor) -> Tensor:
    """Absolute actions (..., 7·arms) with rotation vectors to (..., 10·arms): position, 6-D, gripper."""
    arms = _per_arm(actions, 7)
    rotation = matrix_to_rotation_6d(axis_angle_to_matrix(arms[..., 3:6]))
    return torch.cat([arms[..., :3], rotation, arms[..., 6:]], dim=-1).flatten(-2)


def actions_to_axis_angle(actions: Tensor) -> Tensor:
    """The inverse of `actions_to_rotation_6d`: (..., 10·arms) to (..., 7·arms)."""
    arms = _per_arm(actions, 10)
    rotation = matrix_to_axis_angle(rotation_6d_to_matrix(arms[..., 3:9]))
    return torch.cat([arms[..., :3], rotation, arms[..., 9:]], dim=-1).flatten(-2)


def _per_arm(actions: Tensor, size: int) -> Tensor:
    if actions.shape[-1] % size:
        raise LFMError(f"actions: {actions.shape[-1]} dimensions are not a multiple of {size}, one arm's")
    return actions.unflatten(-1, (-1, size))


def _safe_norm(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Norm (..., 1) with 1 in place of values too small to divide by, and where that is.

    The substitution happens before the square root, whose gradient at 0 is infinite.
    """
    square = (vector**2).sum(-1, keepdim=True)
    small = square < 1e-6
    return torch.where(small, torch.ones_like(square), square).sqrt(), small
