"""What a user can get wrong: one line on stderr, exit code 2, nothing written or overwritten."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from lfm_policy.cli.main import run
from lfm_policy.policy import load_policy
from tests.data.recordings import ENV_ARGS, episode, write_robomimic_file
from tests.training.runs import small_config, small_dataset, train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset(tmp_path / "data.hdf5")


@pytest.fixture
def config(tmp_path: Path, data: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(small_config(data, tmp_path / "run").to_dict()))
    return file


def refused(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> str:
    """The one line with which the command ends; nothing may have been written."""
    before = sorted(config.parent.rglob("*"))
    assert run("train", ["--config", str(config), *arguments], "train_policy.py") == 2
    assert sorted(config.parent.rglob("*")) == before
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


MISTAKES = {
    "missing file": (["--data.path", "none.hdf5"], ["none.hdf5"]),
    "no file": (["--data.path", ""], ["data.path"]),
    "missing key": (["--data.obs_keys", "[object, eef]"], ["eef", "robot0_eef_pos"]),
    "horizon": (["--policy.horizon", "7"], ["policy.horizon", "7", "divisible by 2"]),
    "too many executed": (["--policy.n_action_steps", "8"], ["policy.n_action_steps", "8"]),
    "field": (["--flow.ro", "1"], ["flow.ro", "flow.rho"]),
    "value": (["--training.batch_size", "many"], ["training.batch_size", "many"]),
    "choice": (["--flow.interpolant", "straight"], ["flow.interpolant", "straight", "ot"]),
    "number": (["--training.batch_size", "0"], ["training.batch_size", "0", "1 or more"]),
    "rate": (["--training.learning_rate", ".nan"], ["training.learning_rate", "nan", "positive"]),
    "two lengths": (["--training.steps", "6", "--training.epochs", "9"], ["training.epochs", "9", "steps 6", "null"]),
    "never logged": (["--training.log_every", "0"], ["training.log_every", "0"]),
    "momentum": (["--training.beta1", "1.5"], ["training.beta1", "1.5", "below 1"]),
    "step size": (["--flow.c", "-1"], ["flow.c", "-1", "positive"]),
    "kernel": (["--network.kernel_size", "-1"], ["network.kernel_size", "-1"]),
    "no groups": (["--network.n_groups", "0"], ["network.n_groups", "0"]),
    "threads": (["--threads", "0"], ["threads", "0"]),
    "device": (["--device", "abacus"], ["device", "abacus", "cpu"]),
    "rollouts": (["--rollout.n_rollouts", "-1"], ["rollout.n_rollouts", "-1"]),
    "one key twice": (["--data.obs_keys", "[object, object]"], ["data.obs_keys", "object", "twice"]),
    "no such folder": (["--output_dir", "/proc/run"], ["output_dir", "/proc/run"]),
    "coupling": (["--flow.coupling", "common"], ["flow.coupling", "flow.marginals: exact"]),
    "adaptive sampler": (["--sampler.method", "dopri5"], ["sampler.method", "dopri5", "midpoint"]),
    "rotation": (["--data.rotation", "rotation_6d"], ["data.rotation", "data.representation: absolute"]),
    "both": (["--resume", "true", "--overwrite", "true"], ["resume", "overwrite"]),
    "nothing to resume": (["--resume", "true"], ["run", "does not exist"]),
    "groups": (["--network.channels", "[10, 20]"], ["network.channels", "10"]),
    "nothing to one network": (
        ["--flow.share_weights", "true", "--flow.coupling", "common", "--flow.marginals", "exact"],
        ["flow.interpolant", "ot", "flow.share_weights", "geodesic"],
    ),
    "dataset for a group": (["--data.obs_keys", "[object/pose]"], ["obs/object is no group", "pose"]),
    "filter key": (["--data.filter_key", "best"], ["best"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], config: Path, arguments: list[str], words: list[str]
) -> None:
    line = refused(capsys, config, *arguments)
    for word in words:
        assert word in line


def test_an_unknown_field_of_the_file_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    config.write_text(config.read_text().replace("learning_rate:", "learning_rat:"))
    line = refused(capsys, config)
    assert "training.learning_rat'" in line
    assert "training.learning_rate" in line


def test_a_dataset_given_as_config_is_told_of(capsys: pytest.CaptureFixture[str], config: Path, data: Path) -> None:
    assert "config: is no text; give the path of a YAML file" in refused(capsys, config, "--config", str(data))


def test_a_truncated_file_is_named(capsys: pytest.CaptureFixture[str], config: Path, data: Path) -> None:
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert "data.hdf5" in refused(capsys, config)


def test_nan_in_actions_is_located(capsys: pytest.CaptureFixture[str], config: Path, data: Path) -> None:
    with h5py.File(data, "a") as file:
        file["data/demo_4/actions"][5, 2] = np.nan
    line = refused(capsys, config)
    for word in ("data.hdf5", "demo_4", "actions", "step 5", "dimension 2", "lfm inspect"):
        assert word in line


def test_another_robosuite_version_is_refused_and_can_be_allowed(
    capsys: pytest.CaptureFixture[str], config: Path, data: Path
) -> None:
    rng = np.random.default_rng(0)
    old = {**ENV_ARGS, "env_version": "1.4.1"}
    write_robomimic_file(data, {f"demo_{k}": episode(rng, 20) for k in range(3)}, old)
    line = refused(capsys, config)
    for word in ("data.hdf5", "1.4.1", "installed", f"`lfm convert {data} --output NEW.hdf5`", "data.check_version"):
        assert word in line
    assert run("train", ["--config", str(config), "--data.check_version", "false"], "train_policy.py") == 0


def test_object_in_another_versions_layout_is_refused_and_can_be_allowed(
    capsys: pytest.CaptureFixture[str], config: Path, data: Path
) -> None:
    """robosuite 1.4 gave the gripper's position less the cube's, whatever env_args say."""
    rng = np.random.default_rng(0)
    episodes = {f"demo_{k}": episode(rng, 20) for k in range(3)}
    for arrays in episodes.values():
        arrays["obs/object"][:, 7:] = arrays["obs/robot0_eef_pos"] - arrays["obs/object"][:, :3]
    write_robomimic_file(data, episodes)
    line = refused(capsys, config)
    for word in ("data.hdf5", "obs/object", "1.4 and older", f"`lfm convert {data} --output", "data.check_version"):
        assert word in line
    assert run("train", ["--config", str(config), "--data.check_version", "false"], "train_policy.py") == 0


def test_goals_are_refused_as_displacements_and_can_be_learned_as_goals(
    capsys: pytest.CaptureFixture[str], config: Path, data: Path
) -> None:
    rng = np.random.default_rng(0)
    episodes = {f"demo_{k}": episode(rng, 20) for k in range(3)}
    for arrays in episodes.values():
        del arrays["actions_abs"]
    flat = {"type": "OSC_POSE", "control_delta": False}
    args = {**ENV_ARGS, "env_kwargs": {**ENV_ARGS["env_kwargs"], "controller_configs": flat}}
    write_robomimic_file(data, episodes, args)
    line = refused(capsys, config)
    for word in ("data.hdf5", "actions are goals", "env_args", "data.representation: absolute"):
        assert word in line
    arguments = ["--config", str(config), "--data.representation", "absolute", "--data.rotation", "rotation_6d"]
    assert run("train", arguments, "train_policy.py") == 0


def test_an_existing_run_is_refused_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    assert run("train", ["--config", str(config)], "train_policy.py") == 0
    own = tmp_path / "run" / "notes.txt"
    own.write_text("mine")
    capsys.readouterr()
    assert "--overwrite true" in refused(capsys, config)
    assert run("train", ["--config", str(config), "--overwrite", "true"], "train_policy.py") == 0
    assert own.read_text() == "mine"  # only what a run writes is replaced


def test_a_mistake_does_not_cost_the_run_that_was_to_be_overwritten(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    assert run("train", ["--config", str(config)], "train_policy.py") == 0
    capsys.readouterr()
    refused(capsys, config, "--overwrite", "true", "--data.obs_keys", "[nothing]")
    assert load_policy(tmp_path / "run").spec.horizon == 8


def test_rollouts_that_cannot_be_done_are_refused_before_training(
    capsys: pytest.CaptureFixture[str], config: Path, data: Path
) -> None:
    rng = np.random.default_rng(0)
    write_robomimic_file(data, {f"demo_{k}": episode(rng, 20) for k in range(3)}, None)
    line = refused(capsys, config, "--rollout.n_rollouts", "1")
    assert "data.hdf5" in line
    assert "rollout.n_rollouts: 0" in line


@pytest.mark.parametrize("content", [b"", b"junk\n", b"\x80\x02junk"])
def test_a_damaged_training_state_is_named(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, content: bytes
) -> None:
    assert run("train", ["--config", str(config), "--stop_after", "4"], "train_policy.py") == 0
    capsys.readouterr()
    (tmp_path / "run/checkpoints/step_4/training_state.pt").write_bytes(content)
    line = refused(capsys, config, "--resume", "true")
    assert "step_4/training_state.pt" in line
    assert "--overwrite true" in line


def test_an_unfinished_policy_is_not_loaded(tmp_path: Path, data: Path) -> None:
    train(small_config(data, tmp_path / "run", stop_after=8))
    with pytest.raises(ValueError, match="only 1 of 3 sub-flows are trained"):
        load_policy(tmp_path / "run")
