"""What a run learns, writes and promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lfm_policy.cli.train import parse
from lfm_policy.data.normalizer import Normalizer
from lfm_policy.flow import FitOptions, Fitter, Matching, Solver, TensorSource
from lfm_policy.flow.random import named_seed
from lfm_policy.nets import UNet1d
from lfm_policy.policy import LFMPolicy, load_policy
from lfm_policy.training import Trainer
from lfm_policy.training.windows import split_observation
from tests.data.recordings import episode, write_robomimic_file
from tests.training.runs import metrics, small_config, small_dataset, train

ROOT = Path(__file__).parent.parent.parent
OTHERS = ("toy", "tabular", "image", "sweep")  # their own tests hold those
CONFIGS = sorted(file for file in (ROOT / "configs").glob("*/*.yaml") if file.parent.name not in OTHERS)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_of_the_repository_is_valid(file: Path) -> None:
    arguments = ["--config", str(file), "--output_dir", "run", "--data.path", "file.hdf5"]
    assert parse(arguments, "lfm train").fit_options(1000).steps > 0


# task: N, c, rho, epochs; length of observations and actions
TABLE_A3 = {
    "lift": (4, 0.15, 1.25, 200, 19, 10),
    "can": (4, 0.2, 1.25, 500, 23, 10),
    "square": (4, 0.2, 1.0, 750, 23, 10),
    "transport": (2, 0.5, 1.0, 1500, 59, 20),
    "toolhang": (4, 0.25, 1.25, 200, 53, 10),
}
OBSERVED = {"object": 0, "eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2}


@pytest.mark.parametrize("task", TABLE_A3)
def test_the_paper_configs_have_table_a3s_numbers(task: str) -> None:
    file = f"configs/robomimic/{task}.yaml"
    config = parse(["--config", file, "--output_dir", "run", "--data.path", "file.hdf5"], "lfm train")
    flow, training = config.flow, config.training
    n_subflows, c, rho, epochs, observation_dim, action_dim = TABLE_A3[task]
    assert (flow.n_subflows, flow.c, flow.rho, flow.interpolant) == (n_subflows, c, rho, "ot")
    assert (flow.coupling, flow.marginals, config.data.representation) == ("fresh", "pushed", "absolute")
    assert (training.epochs, training.batch_size, training.learning_rate) == (epochs, 256, 1e-4)
    assert config.fit_options(2560).steps == 10 * epochs  # so many of 10 batches, for each sub-flow
    arms = action_dim // 10
    dims = [OBSERVED[key.removeprefix("robot0_").removeprefix("robot1_")] for key in config.data.obs_keys]
    assert config.data.obs_keys[0] == "object"
    assert sum(dims) == 9 * arms
    with torch.device("meta"):
        subflow, whole = (
            sum(p.numel() for p in UNet1d(action_dim, 2 * observation_dim, channels).parameters())
            for channels in (config.network.channels, config.global_channels or ())
        )
    assert n_subflows * subflow == pytest.approx(whole, rel=0.02)
    assert round(whole / 1e6) in (66, 67)  # what the table prints for all sub-flows together


def test_demonstrations_of_another_expert_train_through_the_command_as_they_are(tmp_path: Path) -> None:
    """Other numbering, no mask, no absolute actions, datasets and groups that we do not know."""
    rng = np.random.default_rng(3)
    episodes = {f"demo_{k}": episode(rng, 25 + k) for k in (7, 5, 100, 12)}
    for arrays in episodes.values():
        del arrays["actions_abs"]
        arrays["obs/robot0_joint_pos"] = np.zeros((len(arrays["actions"]), 7))
    data = write_robomimic_file(tmp_path / "other.hdf5", episodes)
    with h5py.File(data, "a") as file:
        file.create_group("user_info")
    command = [sys.executable, "train_policy.py", "--config", "configs/small/lift.yaml", "--data.path", str(data)]
    command += ["--output_dir", str(tmp_path / "run"), "--training.steps", "2", "--flow.shared_start", "2"]
    subprocess.run(command, check=True, capture_output=True)
    spec = load_policy(tmp_path / "run").spec
    assert spec.observation_dim == 19
    assert (spec.action_space.representation, spec.action_space.dim) == ("delta", 7)
    assert spec.env_id == "lfm/Lift-v0"


def test_windows_hold_normalised_chunks_and_histories_of_the_file(tmp_path: Path) -> None:
    """Against slices of the file: window s of an episode begins To - 1 steps before its step s."""
    data = small_dataset(tmp_path / "data.hdf5", n=2)
    trainer = Trainer(small_config(data, tmp_path / "run"), say=lambda line: None)
    (name,) = trainer.train.demonstrations.names
    with h5py.File(data) as file:
        demo = file["data"][name]
        observations = np.hstack([demo[f"obs/{key}"][()] for key, _ in trainer.policy.spec.observation])
        actions = demo["actions"][()]
    chunk, cond = trainer.train.batch(torch.tensor([0, 6]))
    policy = trainer.policy
    expected_obs = torch.tensor(observations[[[0, 0], [5, 6]]], dtype=torch.float32)
    expected_actions = torch.tensor(actions[[[0, *range(7)], range(5, 13)]], dtype=torch.float32)
    assert torch.equal(cond, policy.observation_normalizer.normalize(expected_obs).flatten(1))
    assert torch.equal(chunk, policy.action_normalizer.normalize(expected_actions))
    assert len(trainer.train) == len(actions) + 1 - 8 + 3 + 1  # To - 1 before, Ta - 1 after


@pytest.mark.parametrize(("rotation", "dim"), [("axis_angle", 7), ("rotation_6d", 10)])
def test_absolute_actions_are_one_setting_from_file_to_checkpoint(tmp_path: Path, rotation: str, dim: int) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run")
    data_config = replace(config.data, representation="absolute", rotation=rotation)
    train(replace(config, data=data_config))
    spec = load_policy(tmp_path / "run").spec
    space = spec.action_space
    assert (space.representation, space.rotation, space.dim, space.frame) == ("absolute", rotation, dim, "world")
    assert spec.env_kwargs["representation"] == "absolute"
    assert spec.env_kwargs["rotation"] == rotation


def test_a_lazily_read_file_trains_the_same_weights(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "memory")
    lazy = small_config(data, tmp_path / "lazy")
    lazy = replace(lazy, data=replace(lazy.data, max_memory_gb=0.0))
    folders = [train(config), train(lazy)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1


def test_the_log_has_held_out_loss_for_each_subflow_and_the_error_of_sampled_chunks(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    train(small_config(data, tmp_path / "run"))
    rows = metrics(tmp_path / "run")
    assert {row["subflow"] for row in rows if "valid_loss" in row} == {1, 2, 3}
    assert {row["subflow"] for row in rows if "sample_mse" in row} == {3}  # no chunk before all are trained
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 19, 2))
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_fresh_process_loads_the_policy_without_dataset_and_predicts_the_same(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    trainer = Trainer(small_config(data, tmp_path / "run"), say=lambda line: None)
    trainer.run()
    observations, _ = trainer.train.gather(torch.arange(3))
    obs = split_observation(observations, trainer.policy)
    torch.save(obs, tmp_path / "obs.pt")
    data.unlink()
    code = (
        "import sys, torch; from lfm_policy.policy import load_policy;"
        "policy = load_policy(sys.argv[1] + '/run'); obs = torch.load(sys.argv[1] + '/obs.pt', weights_only=True);"
        "torch.save(policy.predict_action(obs, torch.Generator().manual_seed(5)), sys.argv[1] + '/chunk.pt');"
        "assert not {'robosuite', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    expected = trainer.policy.eval().predict_action(obs, torch.Generator().manual_seed(5))
    assert torch.equal(torch.load(tmp_path / "chunk.pt", weights_only=True), expected)


def imitable_dataset(path: Path) -> Path:
    """Actions that are a function of the observed `object`, which moves along a line."""
    rng = np.random.default_rng(0)
    episodes = {}
    for k in range(40):
        arrays = episode(rng, 40)
        place = np.full(40, rng.uniform(-1, 1))
        arrays["obs/object"] = np.outer(place, np.linspace(0.5, 1.5, 10))
        arrays["actions"] = np.sin(np.outer(place, np.arange(1, 8) / 3))
        episodes[f"demo_{k}"] = arrays
    return write_robomimic_file(path, episodes)


def test_actions_that_the_observations_determine_are_learned(tmp_path: Path) -> None:
    """Held-out chunks are sampled within half the actions' variance.

    A sampler that is blind to the observations is off by twice the variance, a constant by the variance.
    """
    config = small_config(imitable_dataset(tmp_path / "data.hdf5"), tmp_path / "run", {"n_subflows": 2})
    training = replace(config.training, steps=500, batch_size=64, learning_rate=3e-3)
    training = replace(training, valid_every=500, log_every=100, checkpoint_every=1000)
    network = replace(config.network, channels=(16, 32), embedding_dim=32)
    trainer = Trainer(replace(config, training=training, network=network), say=lambda line: None)
    trainer.run()
    row = [row for row in metrics(tmp_path / "run") if "sample_mse" in row][-1]
    index = torch.arange(len(trainer.valid))
    chunks = trainer.policy.action_normalizer.normalize(trainer.valid.gather(index)[1])
    variance = chunks.flatten(0, 1).var(0).mean().item()
    assert row["sample_mse"] < 0.5 * variance


def windows_by_hand(data: Path, names: Sequence[str], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Chunks (B, 8, Da), scaled to [-1, 1], and pairs of standardised observations (B, 2 · D), from the file itself.

    A window begins one step before an episode at the earliest, and has three steps after it at the latest; what is
    outside repeats the episode's first or last step.
    """
    with h5py.File(data) as file:
        episodes = [
            (np.hstack([file[f"data/{name}/obs/{key}"][()] for key in keys]), file[f"data/{name}/actions"][()])
            for name in names
        ]
    observations, actions = (np.concatenate(part) for part in zip(*episodes, strict=True))
    low, high = actions.min(0), actions.max(0)
    chunks, conditions = [], []
    for seen, done in episodes:
        seen, done = (seen - observations.mean(0)) / observations.std(0), 2 * (done - low) / (high - low) - 1
        for start in range(-1, len(done) - 8 + 3 + 1):
            steps = np.clip(np.arange(start, start + 8), 0, len(done) - 1)
            chunks.append(done[steps])
            conditions.append(seen[steps[:2]].ravel())
    return np.array(chunks), np.array(conditions)


def test_a_run_is_algorithm_1_of_the_flow_core_on_windows_cut_by_hand(tmp_path: Path) -> None:
    """Every setting here differs from its default, and would leave other weights."""
    data = small_dataset(tmp_path / "data.hdf5")
    config = small_config(data, tmp_path / "run", {"warm_start": True, "initial_diffusion": 0.01, "push_steps": 2})
    config = replace(config, data=replace(config.data, observation_normalizer="standard"))
    trainer = Trainer(config, say=lambda line: None)
    trainer.run()
    spec = trainer.policy.spec
    chunks, conditions = windows_by_hand(data, trainer.train.demonstrations.names, [key for key, _ in spec.observation])
    source = TensorSource(torch.tensor(chunks, dtype=torch.float32), torch.tensor(conditions, dtype=torch.float32))
    policy = LFMPolicy(spec, config.lfm(), named_seed(config.seed, "weights"))
    options = FitOptions(
        steps=6,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=2,
        matching=Matching("ot", "fresh", "pushed"),
        warm_start=True,
        initial_diffusion=0.01,
        push_solver=Solver("midpoint", 2),
    )
    fitter = Fitter(policy.flow, source, options, config.seed)
    while not fitter.done:
        fitter.step()
    flows = (trainer.policy.flow, policy.flow)
    theirs, ours = (torch.cat([weight.flatten() for weight in flow.parameters()]) for flow in flows)
    # a mean: where there is no gradient to speak of, rounding decides which way Adam's first steps go
    assert (theirs - ours).abs().mean().item() < 1e-6


def test_the_normalisers_are_those_of_the_training_episodes(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    train(small_config(data, tmp_path / "run"))
    policy = load_policy(tmp_path / "run")
    assert isinstance(policy, LFMPolicy)
    trainer = Trainer(small_config(data, tmp_path / "other"), say=lambda line: None)
    frames = torch.cat([actions for _, actions in trainer.train.demonstrations.frames()])
    expected = Normalizer.fit(frames, "minmax")
    assert torch.equal(policy.action_normalizer.scale, expected.scale)
    assert torch.equal(policy.action_normalizer.offset, expected.offset)


def test_the_checkpoint_says_what_it_was_trained_on(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    folder = train(small_config(data, tmp_path / "run"))
    description = json.loads((folder / "policy.json").read_text())
    assert description["dataset"]["file"] == "data.hdf5"
    assert description["dataset"]["n_episodes"] == 5
    assert description["versions"]["torch"] == torch.__version__.split("+")[0]
    assert description["config"]["training"]["steps"] == 6
