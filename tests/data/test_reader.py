"""The reader: order, keys, values, the lazy twin, splits, identity, and the one line of every bad input."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lfm_policy.data import (
    Demonstrations,
    LazyDemonstrations,
    MemoryDemonstrations,
    Statistics,
    dataset_identity,
    env_id_of,
    read_demonstrations,
    split_episodes,
    split_names,
)
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS, KEYS, Episode, write_robomimic_file

ORDER = ["demo_1", "demo_2", "demo_3", "demo_9", "demo_10", "demo_11", "demo_25"]


def read(path: Path, **options: Any) -> Demonstrations:
    return read_demonstrations(path, options.pop("keys", KEYS), **{"representation": "delta", **options})


def in_memory(path: Path, **options: Any) -> MemoryDemonstrations:
    demonstrations = read(path, **options)
    assert isinstance(demonstrations, MemoryDemonstrations)
    return demonstrations


def change(path: Path, key: str, value: np.ndarray | None) -> None:
    """Replace or remove one dataset."""
    with h5py.File(path, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value


def refused(path: Path, **options: Any) -> str:
    """The one line with which reading fails."""
    with pytest.raises(LFMError) as caught:
        read(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_values_are_the_files_in_order_of_number(dataset: Path, episodes: dict[str, Episode]) -> None:
    demonstrations = in_memory(dataset)
    assert list(demonstrations.names) == ORDER
    assert demonstrations.lengths == (31, 32, 33, 39, 40, 41, 55)
    assert demonstrations.obs_dims == (10, 3, 4, 2)
    assert demonstrations.env_args == ENV_ARGS
    assert demonstrations.action_space.frame == "world"
    frames = demonstrations.frames()
    for name, (observations, actions) in zip(ORDER, frames, strict=True):
        both = np.hstack([episodes[name][f"obs/{key}"] for key in KEYS]).astype(np.float32)
        np.testing.assert_array_equal(observations.numpy(), both)
        np.testing.assert_array_equal(actions.numpy(), episodes[name]["actions"].astype(np.float32))


def test_the_order_of_keys_is_the_callers(dataset: Path) -> None:
    forward, backward = in_memory(dataset), in_memory(dataset, keys=KEYS[::-1])
    columns = torch.cat(forward.observations.split(forward.obs_dims, dim=1)[::-1], dim=1)
    assert torch.equal(columns, backward.observations)


def test_the_size_is_said_before_memory_is_taken(dataset: Path) -> None:
    lines: list[str] = []
    read(dataset, on_size=lines.append)
    assert lines == [f"{dataset}: 7 demonstrations, 271 frames of 19 + 7 numbers, 0.0282 MB, held in memory"]


def test_names_without_numbers_and_groups_of_other_things(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    taken = {f"demo_{name}": episodes["demo_1"] for name in ("b", "a", "7")}
    path = write_robomimic_file(tmp_path / "named.hdf5", taken | {"user_info": {"age": np.zeros(3)}})
    assert read(path).names == ("demo_7", "demo_a", "demo_b")
    other = dict.fromkeys(("take_2", "take_1"), episodes["demo_1"]) | {"notes": {"x": np.zeros(3)}}
    assert read(write_robomimic_file(tmp_path / "other.hdf5", other)).names == ("take_1", "take_2")


def test_a_file_without_env_args(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path = write_robomimic_file(tmp_path / "own.hdf5", episodes, env_args=None)
    assert read(path).env_args == {}
    assert read(path).action_space.controller == {}


def test_a_key_of_one_number_a_step(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    force = np.arange(31.0)
    path = write_robomimic_file(tmp_path / "f.hdf5", {"demo_0": episodes["demo_1"] | {"obs/force": force}})
    demonstrations = in_memory(path, keys=["force"])
    assert demonstrations.observations[:, 0].tolist() == force.tolist()


def test_filter_keys_and_names(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    masks = {"few": ["demo_10", "demo_2"]}
    path = write_robomimic_file(tmp_path / "masked.hdf5", episodes, masks=masks)
    assert read(path, filter_key="few").names == ("demo_2", "demo_10")
    assert read(path, names=["demo_25", "demo_1"]).names == ("demo_1", "demo_25")
    assert read(path, filter_key="few", names=["demo_2", "demo_1"]).names == ("demo_2",)


def test_absolute_actions_and_their_rotations(dataset: Path, episodes: dict[str, Episode]) -> None:
    absolute = in_memory(dataset, representation="absolute")
    recorded = np.vstack([episodes[name]["actions_abs"] for name in ORDER])
    np.testing.assert_allclose(absolute.actions.numpy(), recorded, atol=1e-6)
    six = in_memory(dataset, representation="absolute", rotation="rotation_6d")
    assert six.action_space.dim == 10
    rows = Rotation.from_rotvec(recorded[:, 3:6]).as_matrix()[:, :2].reshape(-1, 6)
    expected = np.hstack([recorded[:, :3], rows, recorded[:, 6:]])
    np.testing.assert_allclose(six.actions.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("rotation", ["axis_angle", "rotation_6d"])
def test_lazy_reading_gives_the_same(dataset: Path, rotation: str) -> None:
    options = {"representation": "absolute", "rotation": rotation}
    memory, lines = read(dataset, **options), list[str]()
    lazy = read(dataset, max_memory_gb=0, on_size=lines.append, **options)
    assert isinstance(lazy, LazyDemonstrations)
    assert lines[0].endswith("lazily")
    for field in ("names", "lengths", "obs_dims", "action_space"):
        assert getattr(lazy, field) == getattr(memory, field)
    windows = memory.windows(2, 16, 1, 7)
    batch = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:64]]
    for ours, theirs in zip(lazy.gather(batch, 2), memory.gather(batch, 2), strict=True):
        assert ours.shape[:1] == (64,)
        assert torch.equal(ours, theirs)
    assert torch.equal(
        Statistics.of(obs for obs, _ in lazy.frames()).mean,
        Statistics.of(obs for obs, _ in memory.frames()).mean,
    )
    lazy.close()


def _gather_sum(demonstrations: Demonstrations, windows: torch.Tensor) -> float:
    return float(demonstrations.gather(windows, 1)[0].sum())


def test_lazy_reading_from_another_process(dataset: Path) -> None:
    lazy = read(dataset, max_memory_gb=0)
    windows = lazy.windows(1, 4, 0, 3)[:20]
    expected = _gather_sum(lazy, windows)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_gather_sum, (lazy, windows)) == expected
    assert _gather_sum(pickle.loads(pickle.dumps(lazy)), windows) == expected


def test_lazy_reading_of_a_file_that_broke_meanwhile(dataset: Path) -> None:
    lazy = read(dataset, max_memory_gb=0)
    change(dataset, "data/demo_9/actions", None)
    with pytest.raises(LFMError, match="cannot be read any more"):
        list(lazy.frames())


def test_masks_split(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    masks = {"train": ORDER[:0:-1], "valid": ["demo_1"], "half": ["demo_1", "demo_2", "demo_9"]}
    path = write_robomimic_file(tmp_path / "masked.hdf5", episodes, masks=masks)
    assert split_names(path, 0.5, seed=0) == (ORDER[1:], ["demo_1"])
    assert split_names(path, 0.5, seed=0, filter_key="half") == (["demo_2", "demo_9"], ["demo_1"])
    masks["valid"] = ["demo_1", "demo_10"]
    write_robomimic_file(path, episodes, masks=masks)
    with pytest.raises(LFMError, match="demo_10 in both mask/train and mask/valid"):
        split_names(path, 0.5, seed=0)


def test_a_mask_train_alone_is_what_is_split(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    masks = {"train": ORDER[1:], "test": ORDER[:1]}
    path = write_robomimic_file(tmp_path / "masked.hdf5", episodes, masks=masks)
    train, valid = split_names(path, 0.5, seed=0)
    assert sorted([*train, *valid]) == sorted(ORDER[1:])
    assert train
    assert valid


def test_demonstrations_that_no_filter_key_chooses_may_be_broken(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path = write_robomimic_file(tmp_path / "masked.hdf5", episodes, masks={"good": ORDER[1:]})
    keys = ["actions", "obs/object"]
    whole = dataset_identity(path, keys)["n_episodes"]
    with h5py.File(path, "a") as file:
        del file[f"data/{ORDER[0]}/obs/object"]
    with pytest.raises(LFMError, match=f"{ORDER[0]}/obs has no key object"):
        dataset_identity(path, keys)
    assert dataset_identity(path, keys, "good")["n_episodes"] == whole - 1


def test_seeded_split(dataset: Path) -> None:
    train, valid = split_names(dataset, 0.3, seed=4)
    assert len(valid) == 2
    assert sorted(train + valid, key=ORDER.index) == ORDER
    assert split_names(dataset, 0.3, seed=4) == (train, valid)
    assert len({tuple(split_names(dataset, 0.3, seed=seed)[1]) for seed in range(20)}) > 5


def test_sizes_of_a_split() -> None:
    names = [f"demo_{index}" for index in range(200)]
    assert [len(part) for part in split_episodes(names, 0.02, 0)] == [196, 4]
    assert [len(part) for part in split_episodes(names[:5], 0.02, 0)] == [4, 1]
    assert [len(part) for part in split_episodes(names[:2], 0.99, 0)] == [1, 1]
    assert [len(part) for part in split_episodes(names[:1], 0.5, 0)] == [1, 0]
    assert [len(part) for part in split_episodes(names, 0, 0)] == [200, 0]
    with pytest.raises(LFMError, match=r"valid_fraction: 1\.5"):
        split_episodes(names, 1.5, 0)


def test_identity_follows_the_actions_not_the_file(dataset: Path, tmp_path: Path) -> None:
    identity = dataset_identity(dataset)
    assert identity["n_episodes"] == 7
    assert identity["n_frames"] == 271
    assert identity["env_args"] == ENV_ARGS
    copy = Path(shutil.copy(dataset, tmp_path / "copy.hdf5"))
    change(copy, "data/demo_9/rewards", np.zeros(39))
    assert dataset_identity(copy) == identity | {"file": "copy.hdf5"}
    change(copy, "data/demo_9/actions", np.zeros((39, 7)))
    assert dataset_identity(copy)["sha256"] != identity["sha256"]


def test_identity_follows_the_datasets_it_is_asked_for(dataset: Path, tmp_path: Path) -> None:
    keys = ["actions_abs", "obs/object"]
    copy = Path(shutil.copy(dataset, tmp_path / "copy.hdf5"))
    change(copy, "data/demo_9/actions", np.zeros((39, 7)))
    assert dataset_identity(copy, keys)["sha256"] == dataset_identity(dataset, keys)["sha256"]
    change(copy, "data/demo_9/obs/object", np.zeros((39, 10)))
    assert dataset_identity(copy, keys)["sha256"] != dataset_identity(dataset, keys)["sha256"]


def test_environment_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    spec = EnvSpec("test/Lift-v0", entry_point="nowhere:Nothing", kwargs={"env_name": "Lift"})
    monkeypatch.setattr(gymnasium, "registry", {"test/Lift-v0": spec})
    assert env_id_of({"env_name": "Lift"}) == "test/Lift-v0"
    assert env_id_of({"env_name": "test/Lift-v0"}) == "test/Lift-v0"
    with pytest.raises(LFMError, match=r"f.hdf5: env_name 'Lfit' is not registered; .* Lift"):
        env_id_of({"env_name": "Lfit"}, "f.hdf5")
    with pytest.raises(LFMError, match="names no environment"):
        env_id_of({})


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.hdf5").startswith(f"{tmp_path}/no.hdf5: no such file")
    assert "is a folder" in refused(tmp_path)


def test_no_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "text.hdf5"
    path.write_text("hello" * 100)
    assert "truncated or no HDF5" in refused(path)


@pytest.mark.parametrize("kept", [0, 0.05, 0.5, 0.99])
def test_a_truncated_file(dataset: Path, kept: float) -> None:
    content = dataset.read_bytes()
    dataset.write_bytes(content[: int(kept * len(content))])
    assert str(dataset) in refused(dataset)


def test_a_file_that_fails_midway(dataset: Path) -> None:
    """Compressed data with damaged bytes: it opens, lists, and fails when it is read."""
    with h5py.File(dataset, "r+") as file:
        values = file["data/demo_10/actions"][()]
        del file["data/demo_10/actions"]
        created = file.create_dataset("data/demo_10/actions", data=values, compression="gzip")
        offset, size = created.id.get_chunk_info(0).byte_offset, created.id.get_chunk_info(0).size
    content = bytearray(dataset.read_bytes())
    content[offset : offset + size] = b"\0" * size
    dataset.write_bytes(bytes(content))
    assert "cannot be read" in refused(dataset)


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere_is_an_lfm_error_or_unseen(dataset: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(dataset.read_bytes())
    start = int(rng.integers(len(content) - 2000))
    content[start : start + 2000] = rng.bytes(2000)
    dataset.write_bytes(bytes(content))
    told = str(dataset)
    try:
        for _ in read(dataset).frames():
            pass
    except LFMError as error:
        told = str(error)
    assert told.startswith(str(dataset))
    assert "\n" not in told


def test_no_demonstrations(tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    assert "no group `data` (it has images)" in refused(path)
    with h5py.File(path, "w") as file:
        file.create_group("data")
    assert "no demonstration" in refused(path)


def test_a_missing_key_names_the_nearest_first(dataset: Path) -> None:
    line = refused(dataset, keys=["object", "robot0_eef_position"])
    assert line.startswith(f"{dataset}: demo_1/obs has no key robot0_eef_position; it has robot0_eef_pos, ")


def test_a_key_missing_in_one_demonstration(dataset: Path) -> None:
    change(dataset, "data/demo_11/obs/object", None)
    assert f"{dataset}: demo_11/obs has no key object" in refused(dataset)


def test_missing_absolute_actions(dataset: Path) -> None:
    change(dataset, "data/demo_1/actions_abs", None)
    line = refused(dataset, representation="absolute")
    assert "demo_1 has no key actions_abs; it has actions" in line
    assert "set data.representation: delta and data.rotation: axis_angle, or" in line
    assert f"make absolute actions with `lfm convert {dataset} --output" in line


def test_a_raw_recording_without_observations(tmp_path: Path) -> None:
    raw = {"demo_1": {"actions": np.zeros((5, 7)), "states": np.zeros((5, 32))}}
    line = refused(write_robomimic_file(tmp_path / "raw.hdf5", raw))
    assert "demo_1 has no key obs; it has " in line
    assert f"a raw recording: `lfm convert {tmp_path}/raw.hdf5 --output NEW.hdf5`" in line


@pytest.mark.parametrize(("key", "value"), [("obs/object", np.nan), ("actions", np.inf), ("actions", 1e300)])
@pytest.mark.parametrize("lazy", [False, True])
def test_values_that_are_not_finite(dataset: Path, key: str, value: float, lazy: bool) -> None:
    with h5py.File(dataset, "r+") as file:
        file[f"data/demo_10/{key}"][17, 3] = value
    with pytest.raises(LFMError) as caught:
        list(read(dataset, max_memory_gb=0 if lazy else 1).frames())
    shown = "nan" if np.isnan(value) else "inf"
    assert str(caught.value) == (
        f"{dataset}: demo_10/{key} is {shown} at step 17, dimension 3; `lfm inspect {dataset}` lists all of them"
    )


@pytest.mark.parametrize("shape", [(39, 10), (40, 9), (0, 10)])
def test_shapes_that_do_not_fit(dataset: Path, shape: tuple[int, int]) -> None:
    change(dataset, "data/demo_10/obs/object", np.zeros(shape))
    line = refused(dataset)
    assert f"demo_10/obs/object has shape {shape}" in line
    assert "40 steps" in line


def test_datasets_that_are_no_numbers(dataset: Path) -> None:
    with h5py.File(dataset, "r+") as file:
        for name in ORDER:
            file[f"data/{name}/obs/image"] = np.zeros((3, 8, 8, 3), dtype=np.uint8)
            file[f"data/{name}/obs/label"] = np.array([b"a", b"b"])
    assert "shape (3, 8, 8, 3)" in refused(dataset, keys=["image"])
    assert "obs/label has shape (2,)" in refused(dataset, keys=["label"])
    assert "is a group" in refused(write_group(dataset), keys=["nested"])


def write_group(dataset: Path) -> Path:
    with h5py.File(dataset, "r+") as file:
        file["data/demo_1/obs/nested/inner"] = np.zeros((31, 2))
    return dataset


def test_masks_that_name_nothing(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    masks = {"train": ["demo_1", "demo_77"], "empty": []}
    path = write_robomimic_file(tmp_path / "masked.hdf5", episodes, masks=masks)
    assert "has no filter key mask/trian; it has train" in refused(path, filter_key="trian")
    assert "mask/train names demo_77, which is not in it" in refused(path, filter_key="train")
    assert "mask/empty holds no demonstration" in refused(path, filter_key="empty")
    assert "names names demo_4, which is not in it" in refused(path, names=["demo_4"])
    assert "names holds no demonstration" in refused(path, names=[])


def test_env_args_that_are_not_json(dataset: Path) -> None:
    with h5py.File(dataset, "r+") as file:
        file["data"].attrs["env_args"] = "{'env_name': Lift}"
    assert "is not JSON" in refused(dataset)
    with h5py.File(dataset, "r+") as file:
        file["data"].attrs["env_args"] = "[1]"
    assert "is not a JSON object" in refused(dataset)


def test_no_keys_asked_for(dataset: Path) -> None:
    assert "data.obs_keys: is empty" in refused(dataset, keys=[])


def test_six_dimensions_need_seven_an_arm(dataset: Path) -> None:
    change(dataset, "data/demo_1/actions_abs", np.zeros((31, 8)))
    line = refused(dataset, representation="absolute", rotation="rotation_6d")
    assert "demo_1/actions_abs has 8 dimensions, rotation_6d needs 7 an arm" in line
