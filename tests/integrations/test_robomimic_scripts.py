"""robomimic's own scripts and rollouts, unmodified, on our algorithm, our checkpoints and our datasets."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import robomimic.utils.file_utils as file_utils
import robomimic.utils.train_utils as train_utils
import torch
from robomimic.envs.wrappers import FrameStackWrapper

from lfm_policy.cli.main import main
from lfm_policy.data.action_space import ActionSpace
from lfm_policy.data.rotation import actions_to_axis_angle
from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.flow.random import named_seed
from lfm_policy.integrations.robomimic import LFMRolloutPolicy, rollout_env, rollout_policy
from lfm_policy.policy import (
    ChainConfig,
    LFMConfig,
    LFMPolicy,
    PolicySpec,
    UNetConfig,
    load_policy,
    save_policy,
)
from tests.data.recordings import OBS_DIMS
from tests.integrations.sessions import tiny_config

HORIZON, SEED = 6, 4


def lfm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, with nobody at its keyboard."""
    command = [sys.executable, "-m", "lfm_policy.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of Lift, as `lfm collect` writes them."""
    path = tmp_path_factory.mktemp("data") / "lift.hdf5"
    record_demonstrations(path, EnvSpec("lfm/Lift-v0"), 2, seed=0, valid_fraction=0)
    return path


@pytest.fixture(scope="module")
def run(dataset: Path) -> tuple[str, list[Path]]:
    """What `lfm robomimic train` printed in two epochs with rollouts, and its checkpoints."""
    experiment = {
        "save": {"every_n_epochs": 1, "on_best_rollout_success_rate": False},
        "rollout": {"enabled": True, "n": 1, "horizon": HORIZON, "rate": 1},
    }
    train = {"num_epochs": 2, "output_dir": str(dataset.parent / "runs")}
    config = dataset.parent / "config.json"
    values = tiny_config(dataset, experiment=experiment, train=train, algo={"flow": {"n_subflows": 2}})
    config.write_text(json.dumps(values))
    done = lfm("robomimic", "train", "--", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, sorted(dataset.parent.glob("runs/tiny/*/models/*.pth"))


def test_robomimics_train_script_trains_and_rolls_out(run: tuple[str, list[Path]], dataset: Path) -> None:
    told, checkpoints = run
    assert "finished run successfully!" in told
    assert [path.name for path in checkpoints] == ["model_epoch_1.pth", "model_epoch_2.pth"]
    for epoch in (1, 2):
        assert f"Epoch {epoch} Rollouts took" in told
        assert f'"Subflow": {epoch}.0' in told.partition(f"Train Epoch {epoch}\n")[2].partition("}")[0]
    first, second = (torch.load(path, weights_only=True)["model"]["nets"] for path in checkpoints)
    moved = {
        name.split(".")[3] for name in first if "flow.fields" in name and not torch.equal(first[name], second[name])
    }
    assert moved == {"1"}, "the second epoch trains the second sub-flow alone"
    assert (int(first["policy.n_trained"]), int(second["policy.n_trained"])) == (1, 2)
    with h5py.File(dataset) as file:
        actions = np.vstack([demo["actions"] for demo in file["data"].values()])
    middle = torch.from_numpy((actions.max(0) + actions.min(0)) / 2).float()
    varying = first["policy.action_normalizer.varying"]
    torch.testing.assert_close(first["policy.action_normalizer.offset"][varying], middle[varying])


def test_robomimics_run_script_acts_as_the_checkpoint_does(run: tuple[str, list[Path]], tmp_path: Path) -> None:
    """Its observations, stacked by robomimic's wrapper, give the actions that it took: in this process too."""
    checkpoint, written, n_rollouts = run[1][-1], tmp_path / "rollouts.hdf5", 3
    done = lfm(
        *("robomimic", "run", "--", "--agent", checkpoint, "--n_rollouts", str(n_rollouts), "--horizon", str(HORIZON)),
        *("--seed", str(SEED), "--dataset_path", written, "--dataset_obs"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"Num_Success"' in done.stdout
    policy, _ = file_utils.policy_from_checkpoint(ckpt_path=str(checkpoint), device=torch.device("cpu"))
    torch.manual_seed(SEED)
    with h5py.File(written) as file:
        assert len(file["data"]) == n_rollouts
        for i in range(n_rollouts):
            demo = file[f"data/demo_{i}"]
            policy.start_episode()
            actions = [policy({key: demo[f"obs/{key}"][t] for key in OBS_DIMS}) for t in range(len(demo["actions"]))]
            assert demo["obs/object"].shape == (HORIZON, 2, 10)
            np.testing.assert_allclose(np.array(actions), demo["actions"], atol=1e-5)


def test_robomimics_playback_script_reaches_our_recorded_states(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robomimic.envs.env_robosuite import EnvRobosuite
    from robomimic.scripts import playback_dataset

    states: list[np.ndarray] = []
    succeeded: list[bool] = []
    reset_to = EnvRobosuite.reset_to

    def watched(env: Any, state: dict[str, Any]) -> Any:
        observation = reset_to(env, state)
        if "model" not in state:  # the first of an episode loads its model; then each state in turn
            states.append(env.get_state()["states"])
            succeeded.append(env.is_success()["task"])
        return observation

    monkeypatch.setattr(EnvRobosuite, "reset_to", watched)
    arguments = {"dataset": str(dataset), "filter_key": None, "n": None, "use_obs": False, "use_actions": False}
    nothing = {"render": False, "video_path": None, "video_skip": 5, "render_image_names": None, "first": False}
    playback_dataset.playback_dataset(argparse.Namespace(**arguments, **nothing))
    with h5py.File(dataset) as file:
        recorded = [file[f"data/demo_{i}/states"][()] for i in range(2)]
    assert np.array_equal(np.array(states), np.concatenate(recorded))
    ends = np.cumsum([len(part) for part in recorded]) - 1
    assert all(succeeded[end] for end in ends)
    assert not any(succeeded[start] for start in (0, ends[0] + 1))


@pytest.fixture(scope="module")
def checkpoint(dataset: Path) -> Path:
    """Our own, of an untrained policy that has learned nothing but where its data came from."""
    with h5py.File(dataset) as file:
        env_args = json.loads(file["data"].attrs["env_args"])
    space = ActionSpace.from_env_args(env_args, "delta", "axis_angle", 7)
    spec = PolicySpec(tuple(OBS_DIMS.items()), space, 2, 8, 3, "lfm/Lift-v0")
    folder = dataset.parent / "checkpoint"
    folder.mkdir()
    config = LFMConfig(UNetConfig((8, 16), embedding_dim=8), ChainConfig(2))
    save_policy(LFMPolicy(spec, config, seed=3), folder, dataset={"file": "lift.hdf5", "env_args": env_args})
    return folder


class Recorder(LFMRolloutPolicy):
    """Remembers what came in and went out."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steps: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def __call__(self, ob: Any, goal: Any = None, **options: Any) -> np.ndarray:
        action = super().__call__(ob, goal, **options)
        self.steps.append(({key: np.array(ob[key]) for key in OBS_DIMS}, action))
        return action


@pytest.mark.parametrize("stacked", [False, True])
def test_our_checkpoint_acts_in_robomimics_rollouts_as_it_does_in_ours(checkpoint: Path, stacked: bool) -> None:
    env = rollout_env(checkpoint)
    env = FrameStackWrapper(env, num_frames=3) if stacked else env
    policy = Recorder(rollout_policy(checkpoint).policy, SEED)
    logs, _ = train_utils.rollout_with_stats(policy, {"Lift": env}, HORIZON, num_episodes=2, terminate_on_success=True)
    assert logs["Lift"]["Horizon"] == HORIZON
    own: Any = load_policy(checkpoint)
    for episode in range(2):
        own.reset(named_seed(SEED, "robomimic episode", episode))
        for observation, action in policy.steps[episode * HORIZON : (episode + 1) * HORIZON]:
            newest = {key: value[-1] if stacked else value for key, value in observation.items()}
            assert np.array_equal(own.act(newest), action)
    assert not np.array_equal(policy.steps[0][1], policy.steps[HORIZON][1])


def test_rotations_are_handed_over_as_axis_angles(checkpoint: Path) -> None:
    spec = load_policy(checkpoint).spec
    space = replace(spec.action_space, representation="absolute", rotation="rotation_6d", dim=10)
    policy = LFMPolicy(replace(spec, action_space=space), LFMConfig(UNetConfig((8, 16), embedding_dim=8)), seed=1)
    observation = {key: np.zeros(dim) for key, dim in OBS_DIMS.items()}
    rollout = LFMRolloutPolicy(policy, SEED)
    rollout.start_episode()
    action = rollout(observation)
    policy.reset(named_seed(SEED, "robomimic episode", 0))
    expected = actions_to_axis_angle(torch.from_numpy(policy.act(observation)))
    assert action.shape == (7,)
    np.testing.assert_allclose(action, expected.numpy())


def test_a_run_that_fails_exits_with_2_and_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """robomimic's train.py itself prints a traceback and exits with 0."""
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    config = tmp_path / "config.json"
    values = tiny_config(dataset, algo={"flow": {"c": -1.0}}, train={"output_dir": str(tmp_path / "runs")})
    config.write_text(json.dumps(values))
    for told in ("flow.c: -1.0 must be positive and finite", "its experiment folder exists: remove it, or give --name"):
        assert main(["robomimic", "train", "--", "--config", str(config)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: robomimic train: ")
        assert told in last


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fly"], "there is no 'fly'; give one of train, run"),
        (["train", "--", "--config", "nowhere.json"], "--config nowhere.json: does not exist"),
        (["train", "--", "--config", os.devnull], "is no JSON"),
        (["run", "--", "--agent", "nowhere.pth"], "FileNotFoundError"),
    ],
)
def test_mistakes_on_the_command_line_take_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["robomimic", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert told in line
    assert line.count("\n") == 1
