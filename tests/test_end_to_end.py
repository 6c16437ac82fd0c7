"""Collect, train and roll out in the real simulator, small enough for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from lfm_policy.cli.main import main
from lfm_policy.data import read_demonstrations
from lfm_policy.evaluation.statistics import wilson

LFM = [sys.executable, "-m", "lfm_policy.cli.main"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo with four demonstrations, a small network and a few steps."""
    folder = tmp_path_factory.mktemp("demo")
    config = yaml.safe_load(Path("configs/small/lift.yaml").read_text())
    config["network"] = {"channels": [8, 16], "n_groups": 4, "embedding_dim": 8}
    config["flow"]["shared_start"] = 5
    config["training"] |= {"steps": 5, "warmup_steps": 1, "batch_size": 16}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [*LFM, "demo", "--config", f"{folder}/config.yaml", "--output_dir", f"{folder}/run"]
    # no film: policies that fail for 400 steps make long ones
    sizes = ["--n", "4", "--n_rollouts", "2", "--n_procs", "2", "--film", "false"]
    result = subprocess.run([*command, *sizes], capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert result.returncode == 0, result.stderr
    (folder / "told.txt").write_text(result.stdout)
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    """The episodes of a results file without their timings."""
    episodes = json.loads(file.read_text())["episodes"]
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in episodes]


def test_the_summary_says_rate_interval_and_where_the_time_went(demo: Path) -> None:
    summary = json.loads((demo / "run" / "summary.json").read_text())
    assert summary["n_rollouts"] == 2
    successes = sum(row["success"] for row in rows(demo / "run" / "rollouts.json"))
    low, high = wilson(successes, 2)
    assert (summary["success_rate"], summary["wilson95"]) == (successes / 2, [low, high])
    assert summary["seconds"].keys() == {"collect", "train", "rollout", "pictures"}
    told = (demo / "told.txt").read_text()
    assert f"success rate {successes / 2:.3f} (95 % {low:.3f} to {high:.3f}) over 2 rollouts\n" in told
    assert (demo / "run" / "paths.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_seeds_were_never_used_in_collecting(demo: Path) -> None:
    with h5py.File(demo / "run" / "data.hdf5") as file:
        collected = {int(group.attrs["seed"]) for group in file["data"].values()}
    evaluated = {row["seed"] for row in rows(demo / "run" / "rollouts.json")}
    assert len(collected) == 4
    assert not collected & evaluated


def test_rollout_rows_do_not_depend_on_processes_or_on_the_run(demo: Path, tmp_path: Path) -> None:
    """The second alone and in one process here, after the first and in two processes in the demo."""
    command = [sys.executable, "rollout.py", f"{demo}/run/train", "--n_rollouts", "1", "--seed", "100001"]
    command += ["--json", f"{tmp_path}/rows.json"]
    subprocess.run(command, check=True, capture_output=True)
    assert rows(tmp_path / "rows.json") == rows(demo / "run" / "rollouts.json")[1:]


def test_the_recorded_states_succeed_when_restored(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"{demo}/run/data.hdf5", "--replay", "3"]) == 0
    assert "3 of 3" in capsys.readouterr().out


def test_a_checkpoint_of_another_task_is_refused(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", f"{demo}/run/train", "--env_id", "lfm/Can-v0", "--n_rollouts", "1"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "checkpoint 10, environment 14" in line


def test_a_checkpoint_of_another_action_representation_is_refused(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint says absolute, the environment it names acts on deltas."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    [source] = (demo / "run" / "train" / "checkpoints").glob("step_*")
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    description = json.loads((source / "policy.json").read_text())
    description["spec"]["action_space"]["representation"] = "absolute"
    (folder / "policy.json").write_text(json.dumps(description))
    assert main(["rollout", str(folder), "--n_rollouts", "1"]) == 2
    line = capsys.readouterr().err
    assert "representation: checkpoint absolute, environment delta" in line
    assert line.count("\n") == 1


def test_robomimic_reads_the_collected_file_as_we_do(demo: Path) -> None:
    """Its SequenceDataset, index by index: frame stack 2, sequences of 15, both paddings."""
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    file = demo / "run" / "data.hdf5"
    keys = ["object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
    demonstrations = read_demonstrations(file, keys, representation="delta")
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": keys}})
    theirs = SequenceDataset(
        str(file), keys, ["actions"], frame_stack=2, seq_length=15, pad_frame_stack=True, pad_seq_length=True
    )
    windows = demonstrations.windows(2, 16, 1, 14)
    assert len(theirs) == len(windows)
    observations, actions = demonstrations.gather(windows, 2)
    for index in range(0, len(windows), 7):
        item = theirs[index]
        np.testing.assert_array_equal(actions[index].numpy(), item["actions"].astype(np.float32))
        expected = np.hstack([item["obs"][key][:2] for key in keys]).astype(np.float32)
        np.testing.assert_array_equal(observations[index].numpy(), expected)
