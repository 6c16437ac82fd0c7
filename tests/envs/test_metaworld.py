"""Any gymnasium environment through the same commands: Meta-World, which no line of the package knows."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfm_policy.cli.main import main

TASK = "metaworld:Meta-World/MT1"
MAPPING = '{hand: "state[0:3]", gripper: "state[3]", object: "state[4:11]", goal: "state[36:39]"}'
ENVIRONMENT = ["--observation", MAPPING, "--success_key", "success"]
TINY = "--network.channels=[8,16] --network.n_groups=4 --network.embedding_dim=8 --training.steps=3 --policy.horizon=8"
EXPERT = ["--expert", "envs.experts.metaworld:make_expert"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "reach.hdf5"
    kwargs = ["--env_kwargs", "{env_name: reach-v3, seed: 0}"]
    assert main(["collect", "--out", str(path), "--task", TASK, "--n", "3", *kwargs, *ENVIRONMENT, *EXPERT]) == 0
    return path


def test_its_experts_are_recorded_under_our_keys(recording: Path) -> None:
    with h5py.File(recording) as file:
        for demo in file["data"].values():
            assert {key: rows.shape[1] for key, rows in demo["obs"].items()} == {
                "hand": 3,
                "gripper": 1,
                "object": 7,
                "goal": 3,
            }
            # reach-v3 is won within 5 cm of the goal
            hand, goal = demo["next_obs/hand"][-1], demo["obs/goal"][-1]
            assert np.linalg.norm(hand - goal) < 0.05
            assert np.abs(demo["actions"][()]).max() <= 1


def test_a_policy_trained_on_them_rolls_out_in_the_environment_they_name(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No flag but the checkpoint: id, arguments, keys and success test come from the file."""
    keys = ["--data.obs_keys", "[hand, gripper, object, goal]"]
    run, rows = tmp_path / "run", tmp_path / "rows.json"
    assert (
        main(
            [
                "train",
                "--data.path",
                str(recording),
                "--output_dir",
                str(run),
                *keys,
                *TINY.split(),
                "--policy.n_action_steps",
                "4",
            ]
        )
        == 0
    )
    command = ["rollout", str(run), "--n_rollouts", "2", "--max_steps", "20", "--json", str(rows)]
    assert main(command) == 0
    first = json.loads(rows.read_text())
    assert (first["env_id"], first["seeds"]) == (TASK, [100_000, 100_001])
    # a seed decides the goal too, which this benchmark's wrapper draws before it passes the seed on
    again = [*command[:-1], str(tmp_path / "again.json"), "--n_procs", "2"]
    assert main(again) == 0
    for one, other in zip(
        first["episodes"], json.loads((tmp_path / "again.json").read_text())["episodes"], strict=True
    ):
        assert (one["return"], one["success"]) == (other["return"], other["success"])
    assert main([*command[:-2], "--success_key", "won"]) == 2
    assert "success_key 'won' is not in what its steps report" in capsys.readouterr().err
