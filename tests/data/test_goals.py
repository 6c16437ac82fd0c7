"""Displacements and goals in `actions`, told apart by env_args and by their numbers; what is read for each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfm_policy.data import MemoryDemonstrations, read_demonstrations
from lfm_policy.data.goals import are_goals
from lfm_policy.data.inspect import inspect_file
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS, KEYS, Episode, smooth, write_robomimic_file

FLAT = {"type": "OSC_POSE", "control_delta": True}


def hand(rng: np.random.Generator, steps: int) -> np.ndarray:
    """A gripper over a table."""
    return smooth(rng, steps, 3) * 0.2 + [0, 0, 1.0]


def goals(rng: np.random.Generator, eef: np.ndarray, tilt: float = np.pi) -> np.ndarray:
    """Up to 5 cm away from it, turned by `tilt` from where its axes are the world's, closing in the end."""
    steps = len(eef)
    rotation = np.hstack([np.full((steps, 1), tilt), np.zeros((steps, 2))]) + 0.1 * smooth(rng, steps, 3)
    return np.hstack([eef + rng.uniform(-0.05, 0.05, (steps, 3)), rotation, np.ones((steps, 1))])


@pytest.mark.parametrize("arms", [1, 2])
def test_numbers_tell_goals_from_displacements(arms: int) -> None:
    rng = np.random.default_rng(arms)
    eef = [hand(rng, 50) for _ in range(arms)]
    assert are_goals(np.hstack([goals(rng, each) for each in eef]), eef)
    # a gripper held level
    assert are_goals(np.hstack([goals(rng, each, np.pi / 2) for each in eef]), eef)
    # goals in the base's frame are elsewhere, but no displacement turns as far
    assert are_goals(np.hstack([goals(rng, each - [0.56, 0, 0.9]) for each in eef]), eef)
    for size in (0, 0.1, 1):
        assert not are_goals(rng.uniform(-size, size, (50, 7 * arms)), eef)
    assert not are_goals(np.sign(rng.normal(size=(50, 7 * arms))) * 0.99, eef)


@pytest.fixture
def episodes(clean: dict[str, Episode]) -> dict[str, Episode]:
    """Demonstrations with goals in `actions` and nowhere else, as in Diffusion Policy's files."""
    rng = np.random.default_rng(3)
    for arrays in clean.values():
        arrays["obs/robot0_eef_pos"] = hand(rng, len(arrays["actions"]))
        arrays["actions"] = goals(rng, arrays["obs/robot0_eef_pos"])
        del arrays["actions_abs"]
    return clean


def env_args(controller: Any) -> dict[str, Any]:
    args = copy.deepcopy(ENV_ARGS)
    args["env_kwargs"]["controller_configs"] = controller
    return args


CONTROLLERS = {
    "env_args say goals": (FLAT | {"control_delta": False}, "by its env_args"),
    "composite says goals": ({"body_parts": {"right": {"input_type": "absolute"}}}, "by its env_args"),
    "numbers say goals": (FLAT, "positions of the gripper"),
}


@pytest.mark.parametrize(("controller", "why"), CONTROLLERS.values(), ids=CONTROLLERS)
@pytest.mark.parametrize("lazy", [False, True])
def test_goals_are_refused_as_displacements_and_read_as_goals(
    tmp_path: Path, episodes: dict[str, Episode], controller: Any, why: str, lazy: bool
) -> None:
    path = write_robomimic_file(tmp_path / "abs.hdf5", episodes, env_args(controller))
    with pytest.raises(LFMError) as caught:
        read_demonstrations(path, KEYS, representation="delta")
    line = str(caught.value)
    assert line.startswith(f"{path}: actions are goals, not displacements ({why}")
    assert line.endswith("set data.representation: absolute")
    read = read_demonstrations(path, KEYS, representation="absolute", max_memory_gb=0 if lazy else 1)
    assert read.action_space.representation == "absolute"
    for name, (_, actions) in zip(read.names, read.frames(), strict=True):
        np.testing.assert_array_equal(actions, episodes[name]["actions"].astype(np.float32))
    six = read_demonstrations(path, KEYS, representation="absolute", rotation="rotation_6d")
    assert six.action_space.dim == 10


def test_absolute_actions_of_their_own_come_first(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    for arrays in episodes.values():
        arrays["actions_abs"] = arrays["actions"] + 0.01
    path = write_robomimic_file(tmp_path / "both.hdf5", episodes, env_args(FLAT | {"control_delta": False}))
    read = read_demonstrations(path, KEYS, representation="absolute")
    assert isinstance(read, MemoryDemonstrations)
    expected = np.vstack([episodes[name]["actions_abs"] for name in read.names]).astype(np.float32)
    assert torch.equal(read.actions, torch.from_numpy(expected))


def test_inspection_tells_goals_that_env_args_deny(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    def found(controller: Any) -> list[str]:
        path = write_robomimic_file(tmp_path / "abs.hdf5", episodes, env_args(controller))
        checks = {"action convention", "saturated actions"}
        return [finding.text for finding in inspect_file(path).findings if finding.check in checks]

    (text,) = found(FLAT)
    assert "actions are goals" in text
    assert "train with data.representation: absolute" in text
    assert found(FLAT | {"control_delta": False}) == []


@pytest.mark.parametrize("damage", ["no positions", "other width", "damaged numbers", "own robot"])
def test_without_what_it_takes_env_args_are_believed(tmp_path: Path, episodes: dict[str, Episode], damage: str) -> None:
    args = env_args(FLAT)
    for arrays in episodes.values():
        if damage == "no positions":
            del arrays["obs/robot0_eef_pos"]
        elif damage == "other width":
            arrays["actions"] = arrays["actions"][:, :6]
    if damage == "own robot":
        args = {"env_name": "my arm", "type": 2, "env_kwargs": {}}
    if damage == "damaged numbers":
        for arrays in episodes.values():
            arrays["actions"] = np.where(np.arange(7) < 6, 0.0, arrays["actions"])
            arrays["actions"][0] = 1e300
    path = write_robomimic_file(tmp_path / "abs.hdf5", episodes, args)
    keys = [key for key in KEYS if damage != "no positions" or key != "robot0_eef_pos"]
    if damage == "damaged numbers":
        with pytest.raises(LFMError, match="is inf at step 0, dimension 0"):
            read_demonstrations(path, keys, representation="delta")
    else:
        assert read_demonstrations(path, keys, representation="delta").action_space.representation == "delta"
