"""Replaying states gives back what was observed when they were recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lfm_policy.cli.main import main
from lfm_policy.conversion.recording import Episode
from lfm_policy.conversion.replayed import Replayer
from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec, make_env
from lfm_policy.flow.errors import LFMError
from tests.helpers.point import POINT

KEYS = ("obs/goal", "obs/position", "next_obs/goal", "next_obs/position", "rewards", "dones", "actions_abs", "states")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "point.hdf5"
    record_demonstrations(path, EnvSpec(POINT, {"frame": "world"}), 5, seed=3)
    return path


def episode_of(path: Path, name: str) -> Episode:
    with h5py.File(path) as file:
        demo = file["data"][name]
        return Episode(demo["actions"][()], demo["states"][()], attrs=dict(demo.attrs))


def test_observations_rewards_and_goals_are_those_of_the_recording(recording: Path) -> None:
    replay = Replayer(lambda: make_env(POINT))
    with h5py.File(recording) as file:
        for name, demo in file["data"].items():
            seen = replay(name, episode_of(recording, name))
            values = {f"obs/{key}": rows for key, rows in seen.observations.items()}
            values |= {f"next_obs/{key}": rows for key, rows in seen.next_observations.items()}
            values |= {"rewards": seen.rewards, "dones": seen.dones, "states": seen.states, **seen.datasets}
            for key in KEYS:
                np.testing.assert_allclose(values[key], demo[key][()], atol=1e-7, err_msg=f"{name}/{key}")
    assert replay.refusal == ""


def test_a_refused_model_is_told_and_replaced_by_the_simulators_own(recording: Path) -> None:
    replay, known = Replayer(lambda: make_env(POINT)), episode_of(recording, "demo_0")
    strange = replace(known, attrs={**known.attrs, "model_file": "<strange/>"})
    seen, expected = replay("demo_0", strange), Replayer(lambda: make_env(POINT))("demo_0", known)
    assert replay.refusal == "no such model"
    assert "model_file" not in seen.attrs, "it is not what was seen"
    for key, rows in expected.observations.items():
        np.testing.assert_array_equal(seen.observations[key], rows)


def test_states_of_another_simulator_are_refused() -> None:
    episode = Episode(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(LFMError, match="demo_0: its states cannot be restored"):
        Replayer(lambda: make_env(POINT))("demo_0", episode)
    with pytest.raises(LFMError, match="demo_0: has no states to replay"):
        Replayer(lambda: make_env(POINT))("demo_0", replace(episode, states=None))


@pytest.mark.parametrize("n_procs", [1, 2])
def test_the_command_converts_states_without_observations(recording: Path, tmp_path: Path, n_procs: int) -> None:
    """Arrays of states and actions alone, replayed, are the recording again, whoever of how many did it."""
    with h5py.File(recording) as file:
        demos = [file["data"][name] for name in sorted(file["data"])]
        parts: dict[str, Any] = {"states": [demo["states"][()] for demo in demos]}
        parts["actions"] = [demo["actions"][()] for demo in demos]
        ends = np.cumsum([len(rows) for rows in parts["actions"]])
        source, output = tmp_path / "bare.npz", tmp_path / "out.hdf5"
        np.savez(source, **{key: np.concatenate(rows) for key, rows in parts.items()}, episode_ends=ends)
        command = ["convert", str(source), "--output", str(output), "--env_id", POINT, "--n_procs", str(n_procs)]
        assert main(command) == 0
        with h5py.File(output) as converted:
            for name, demo in file["data"].items():
                for key in KEYS:
                    np.testing.assert_allclose(converted["data"][name][key][()], demo[key][()], atol=1e-7)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replay", "true"], "bare.npz: names no environment to replay its states in; give --env_id"),
        (["--env_id", "CartPole-v1", "--replay", "true"], "environment CartPole-v1: shows no stored states"),
        (["--env_id", "Nowhere-v7"], "environment Nowhere-v7: "),
        (["--env_id", "CartPole-v1"], "bare.npz: holds no observations; give --observation, or --env_id"),
        ([], "bare.npz: holds no observations"),
    ],
)
def test_a_replay_that_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    source, output = tmp_path / "bare.npz", tmp_path / "out.hdf5"
    np.savez(source, states=np.zeros((3, 5)), actions=np.zeros((3, 2)), episode_ends=[3])
    assert main(["convert", str(source), "--output", str(output), *options]) == 2
    error = capsys.readouterr().err
    assert error.removeprefix(f"error: {tmp_path}/").removeprefix("error: ").startswith(told)
    assert not list(tmp_path.glob("*out*"))
