"""Rotations against scipy at angles from 0 to pi and beyond; finite gradients where formulas divide by 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lfm_policy.data import rotation as R
from lfm_policy.flow.errors import LFMError

ANGLES = [0.0, 1e-9, 1e-4, 9e-4, 1.1e-3, 0.3, 1.5, 3.0, np.pi - 1e-3, np.pi - 1e-7, np.pi]


@pytest.fixture
def rotations() -> Rotation:
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(len(ANGLES), 40, 3))
    axes[:, :3] = np.eye(3)
    axes[:, 3:6] = -np.eye(3)
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    vectors = (axes * np.array(ANGLES)[:, None, None]).reshape(-1, 3)
    return Rotation.concatenate([Rotation.from_rotvec(vectors), Rotation.random(500, random_state=1)])


def assert_close(ours: torch.Tensor, theirs: np.ndarray, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=atol)


def test_to_matrix(rotations: Rotation) -> None:
    assert_close(R.axis_angle_to_matrix(torch.from_numpy(rotations.as_rotvec())), rotations.as_matrix())
    assert_close(R.quaternion_to_matrix(torch.from_numpy(rotations.as_quat())), rotations.as_matrix())


def test_from_matrix(rotations: Rotation) -> None:
    matrix = torch.from_numpy(rotations.as_matrix())
    vectors = R.matrix_to_axis_angle(matrix)
    assert vectors.norm(dim=-1).max() <= np.pi + 1e-9
    # at pi the axis may point either way, the matrix may not
    assert_close(torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()), rotations.as_matrix(), 1e-7)
    away = rotations.magnitude() < np.pi - 1e-4
    assert_close(vectors[torch.from_numpy(away)], rotations.as_rotvec()[away], 1e-7)
    quaternion = R.matrix_to_quaternion(matrix)
    same = np.abs((quaternion.numpy() * rotations.as_quat()).sum(-1))
    np.testing.assert_allclose(same, 1, atol=1e-9)
    assert (quaternion[:, 3] >= 0).all()


def test_quaternion_and_axis_angle(rotations: Rotation) -> None:
    away = rotations[rotations.magnitude() < np.pi - 1e-4]
    vectors, quaternion = torch.from_numpy(away.as_rotvec()), torch.from_numpy(away.as_quat(canonical=True))
    assert_close(R.axis_angle_to_quaternion(vectors), quaternion.numpy())
    assert_close(R.quaternion_to_axis_angle(quaternion), away.as_rotvec())
    assert_close(R.quaternion_to_axis_angle(-quaternion), away.as_rotvec())


def test_angles_beyond_pi_wrap(rotations: Rotation) -> None:
    long = rotations.as_rotvec() * 3.7
    theirs = Rotation.from_rotvec(long).as_matrix()
    assert_close(R.axis_angle_to_matrix(torch.from_numpy(long)), theirs)


def test_rotation_6d_is_the_first_two_rows(rotations: Rotation) -> None:
    matrix = torch.from_numpy(rotations.as_matrix())
    six = R.matrix_to_rotation_6d(matrix)
    assert_close(six, rotations.as_matrix()[:, :2].reshape(-1, 6))
    assert_close(R.rotation_6d_to_matrix(six), rotations.as_matrix())


def test_any_six_numbers_give_a_rotation() -> None:
    matrix = R.rotation_6d_to_matrix(torch.randn(100, 6, dtype=torch.float64))
    assert_close(matrix @ matrix.mT, np.broadcast_to(np.eye(3), (100, 3, 3)))
    assert_close(torch.linalg.det(matrix), np.ones(100))


@pytest.mark.parametrize("arms", [1, 2])
def test_absolute_actions_round_trip(arms: int) -> None:
    rng = np.random.default_rng(2)
    actions = rng.normal(size=(4, 16, arms, 7))
    actions[..., 3:6] = Rotation.random(4 * 16 * arms, random_state=0).as_rotvec().reshape(4, 16, arms, 3)
    flat = torch.from_numpy(actions.reshape(4, 16, -1))
    six = R.actions_to_rotation_6d(flat)
    assert six.shape == (4, 16, 10 * arms)
    np.testing.assert_array_equal(six.unflatten(-1, (arms, 10))[..., :3].numpy(), actions[..., :3])
    np.testing.assert_array_equal(six.unflatten(-1, (arms, 10))[..., 9].numpy(), actions[..., 6])
    assert_close(R.actions_to_axis_angle(six), flat.numpy(), 1e-7)
    assert_close(R.actions_to_axis_angle(R.actions_to_rotation_6d(flat.float())).double(), flat.numpy(), 1e-3)


def test_actions_of_another_width() -> None:
    with pytest.raises(LFMError, match="8 dimensions"):
        R.actions_to_rotation_6d(torch.zeros(2, 8))


IDENTITY_6D = torch.eye(3, dtype=torch.float64)[:2].flatten()


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (R.axis_angle_to_matrix, torch.zeros(3)),
        (R.axis_angle_to_quaternion, torch.zeros(3)),
        (R.quaternion_to_axis_angle, torch.tensor([0.0, 0, 0, 1])),
        (R.matrix_to_quaternion, torch.eye(3)),
        (R.matrix_to_axis_angle, torch.eye(3)),
        (R.matrix_to_axis_angle, torch.diag(torch.tensor([1.0, -1, -1]))),
        (R.rotation_6d_to_matrix, IDENTITY_6D),
        (R.actions_to_rotation_6d, torch.zeros(7)),
        (R.actions_to_axis_angle, torch.cat([torch.zeros(3), IDENTITY_6D, torch.zeros(1)])),
    ],
)
def test_gradients_are_finite(function, at: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    jacobian = torch.autograd.functional.jacobian(function, at.double())
    assert jacobian.isfinite().all()
    assert jacobian.abs().max() > 0.1


def test_gradient_at_the_identity_is_the_generator() -> None:
    jacobian = torch.autograd.functional.jacobian(R.axis_angle_to_matrix, torch.zeros(3, dtype=torch.float64))
    assert jacobian[..., 2].tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 0]]
