"""Plain arrays: what is written is read back, and Diffusion Policy's own layout is understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from lfm_policy.cli.main import main
from lfm_policy.conversion.arrays import Columns, read_arrays
from lfm_policy.data import DatasetWriter, read_demonstrations
from lfm_policy.flow.errors import LFMError

LENGTHS = (4, 1, 6)
ENDS = np.cumsum(LENGTHS)
ENV_ARGS = {"env_name": "Nowhere-v0", "type": 2, "env_version": "", "env_kwargs": {}}


def frames(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A replay buffer as Diffusion Policy publishes PushT's: flat arrays, pictures among them."""
    total = sum(LENGTHS)
    return {
        "state": rng.normal(size=(total, 5)).astype(np.float32),
        "action": rng.normal(size=(total, 2)).astype(np.float32),
        "keypoint": rng.normal(size=(total, 9, 2)).astype(np.float32),
        "img": rng.integers(0, 255, (total, 4, 4, 3), dtype=np.uint8),
    }


def write_store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    root = zarr.create_group(zarr.storage.LocalStore(path), zarr_format=2)
    for name, array in arrays.items():
        root.create_array(f"data/{name}", data=array, chunks=(3, *array.shape[1:]))
    root.create_array("meta/episode_ends", data=ENDS)


def contents(path: Path) -> dict[str, Any]:
    """Every low-dimensional number of a robomimic file by name."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file["data"].visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None)
    return found


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_replay_buffer_becomes_episodes(tmp_path: Path, kind: str) -> None:
    arrays = frames(np.random.default_rng(0))
    source, output = tmp_path / f"buffer.{kind}", tmp_path / "out.hdf5"
    if kind == "npz":
        np.savez(source, **arrays, episode_ends=ENDS)  # type: ignore[arg-type]
    else:
        write_store(source, arrays)
    assert main(["convert", str(source), "--output", str(output)]) == 0
    demos = read_demonstrations(output, ["keypoint"], representation="delta")
    assert demos.lengths == LENGTHS
    seen = [np.concatenate(parts) for parts in zip(*demos.frames(), strict=True)]
    np.testing.assert_array_equal(seen[0], arrays["keypoint"].reshape(-1, 18))
    np.testing.assert_array_equal(seen[1], arrays["action"])
    with h5py.File(output) as file:
        assert set(file["data/demo_0/obs"]) == {"keypoint"}, "states are no observation, pictures are left out"
        np.testing.assert_array_equal(file["data/demo_2/states"][()], arrays["state"][5:])
        assert {*file["mask/train"][()], *file["mask/valid"][()]} == {b"demo_0", b"demo_1", b"demo_2"}
        assert file["data"].attrs["source"] == source.name


def test_a_mapping_picks_observations(tmp_path: Path) -> None:
    arrays = frames(np.random.default_rng(0))
    source, output = tmp_path / "buffer.npz", tmp_path / "out.hdf5"
    np.savez(source, **arrays, episode_ends=ENDS)  # type: ignore[arg-type]
    mapping = '{agent: "state[0:2]", rest: "keypoint[17], state[4]"}'
    assert main(["convert", str(source), "--output", str(output), "--observation", mapping]) == 0
    with h5py.File(output) as file:
        obs = file["data/demo_2/obs"]
        np.testing.assert_array_equal(obs["agent"][()], arrays["state"][5:, :2])
        np.testing.assert_array_equal(obs["rest"][:, 0], arrays["keypoint"][5:, 8, 1])
        np.testing.assert_array_equal(obs["rest"][:, 1], arrays["state"][5:, 4])


@pytest.mark.parametrize("suffix", [".npz", ".zarr", ".zarr.zip"])
def test_there_and_back(tmp_path: Path, suffix: str) -> None:
    """robomimic's file, arrays, and robomimic's file again: the same numbers and the same env_args."""
    rng, first = np.random.default_rng(1), tmp_path / "first.hdf5"
    with DatasetWriter(first, ENV_ARGS, valid_fraction=0) as writer:
        for length in LENGTHS:
            obs = {"object": rng.normal(size=(length, 3)), "flag": rng.integers(0, 2, length)}
            states, goals = rng.normal(size=(length, 5)), rng.normal(size=(length, 2))
            actions, rewards = rng.normal(size=(length, 2)), rng.random(length)
            writer.add_episode(obs, actions, rewards, rewards > 0.5, states=states, actions_abs=goals)
    between, second = tmp_path / f"between{suffix}", tmp_path / "second.hdf5"
    for source, target in ((first, between), (between, second)):
        assert main(["convert", str(source), "--output", str(target), "--replay", "false"]) == 0
    before, after = contents(first), contents(second)
    # what nothing but its name tells from an observation comes back as one
    before = {name.replace("/actions_abs", "/obs/actions_abs"): values for name, values in before.items()}
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(np.ravel(values), np.ravel(after[name]), name)
    with h5py.File(second) as file:
        assert json.loads(file["data"].attrs["env_args"]) == ENV_ARGS


def test_a_written_store_is_of_version_2(tmp_path: Path) -> None:
    """Diffusion Policy's code reads no other; groups data and meta are what it looks for."""
    source, store = tmp_path / "buffer.npz", tmp_path / "out.zarr"
    np.savez(source, **frames(np.random.default_rng(0)), episode_ends=ENDS)  # type: ignore[arg-type]
    assert main(["convert", str(source), "--output", str(store)]) == 0
    assert json.loads((store / ".zgroup").read_text()) == {"zarr_format": 2}
    root = zarr.open_group(store, mode="r")
    assert sorted(root["data"].array_keys()) == ["action", "keypoint", "state"]
    np.testing.assert_array_equal(root["meta/episode_ends"][:], ENDS)


BUFFER = {"action": np.zeros((5, 2)), "state": np.zeros((5, 3)), "episode_ends": np.array([2, 5])}


@pytest.mark.parametrize(
    ("change", "columns", "told"),
    [
        ({"episode_ends": None}, Columns(), r"f.npz: has no episode_ends, .*it has action \(5, 2\), state \(5, 3\)"),
        ({"episode_ends": np.array([2, 2])}, Columns(), "episode_ends must be whole numbers that rise from above 0"),
        ({"episode_ends": np.array([2.0, 5.0])}, Columns(), "episode_ends must be whole numbers"),
        ({"action": None}, Columns(), r"has no array action for --actions; it has state"),
        ({}, Columns(actions="acts"), "has no array acts for --actions"),
        ({"state": np.zeros((4, 3))}, Columns(), r"state has shape \(4, 3\), but episode_ends ends at 5 frames"),
        ({}, Columns(observation={"a": "state[2:6]"}), r"observation.a asks for state\[2:6\], but state has shape"),
        ({"env_args": np.array("{")}, Columns(), "env_args is no JSON object"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], columns: Columns, told: str) -> None:
    arrays = {name: array for name, array in {**BUFFER, **change}.items() if array is not None}
    with pytest.raises(LFMError, match=told):
        list(read_arrays(Path("f.npz"), arrays, columns, "npz arrays").episodes())


@pytest.mark.parametrize("name", ["cut.npz", "cut.zarr.zip", "none.npz", "other.txt", "empty.zarr"])
def test_no_output_is_left_of_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source, output = tmp_path / name, tmp_path / "out.hdf5"
    if name.startswith("cut"):
        whole = tmp_path / name.replace("cut", "whole")
        np.savez(tmp_path / "buffer.npz", **BUFFER)  # type: ignore[arg-type]
        assert main(["convert", str(tmp_path / "buffer.npz"), "--output", str(whole)]) == 0
        source.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif name == "other.txt":
        source.write_text("numbers")
    elif name == "empty.zarr":
        source.mkdir()
    capsys.readouterr()
    assert main(["convert", str(source), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {source}: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))
