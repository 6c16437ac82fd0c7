"""The writer: what it wrote reads back exactly, and nothing half-written is ever left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lfm_policy.data import DatasetWriter, read_demonstrations, split_names
from lfm_policy.data.hdf5 import masks, open_hdf5
from lfm_policy.data.writer import UnfitEpisode
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS, KEYS, Episode

ROOT = Path(__file__).parents[2]


def parts(episode: Episode) -> dict[str, Any]:
    """An episode as `add_episode` takes it."""
    flat = {key: values for key, values in episode.items() if not key.startswith("obs/")}
    return {"obs": {key: episode[f"obs/{key}"] for key in KEYS}, **flat}


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_reads_back_exactly(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path = tmp_path / "new" / "lift.hdf5"
    with DatasetWriter(path, ENV_ARGS, valid_fraction=0.3, seed=5) as writer:
        for index, episode in enumerate(episodes.values()):
            final = {key: np.full_like(episode[f"obs/{key}"][0], 9) for key in KEYS}
            name = writer.add_episode(**parts(episode), final_obs=final, model_file="<mujoco/>", attrs={"seed": index})
            assert name == f"demo_{index}"
    assert left_behind(path.parent) == ["lift.hdf5"]
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 271
        for index, episode in enumerate(episodes.values()):
            demo = file[f"data/demo_{index}"]
            for key, values in episode.items():
                np.testing.assert_array_equal(demo[key][()], values)
                assert demo[key].dtype == (np.int64 if key == "dones" else np.float64)
            np.testing.assert_array_equal(demo["next_obs/object"][:-1], demo["obs/object"][1:])
            assert (demo["next_obs/object"][-1] == 9).all()
            attrs = dict(demo.attrs)
            assert attrs == {"num_samples": len(episode["actions"]), "model_file": "<mujoco/>", "seed": index}
        assert masks(file).keys() == {"train", "valid"}
        assert file["mask/train"].dtype.kind == "S"
    assert read_demonstrations(path, KEYS, representation="delta").env_args == ENV_ARGS
    train, valid = split_names(path, 0.9, seed=0)
    assert len(valid) == 2
    assert len(train) == 5


def test_without_validation_there_are_no_masks(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    with DatasetWriter(tmp_path / "a.hdf5", {}, valid_fraction=0) as writer:
        writer.add_episode(**parts(episodes["demo_1"]))
    with open_hdf5(tmp_path / "a.hdf5") as file:
        assert masks(file) == {}
        assert "next_obs" not in file["data/demo_0"]


def test_images_stay_bytes(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "a.hdf5", {}) as writer:
        image = np.zeros((3, 8, 8, 3), dtype=np.uint8)
        writer.add_episode({"image": image}, np.zeros((3, 7)), np.zeros(3), [False, False, True])
    with open_hdf5(tmp_path / "a.hdf5") as file:
        assert file["data/demo_0/obs/image"].dtype == np.uint8
        assert file["data/demo_0/dones"][()].tolist() == [0, 0, 1]


def record_and(then: Callable[[], None], path: Path, episode: Episode, **options: Any) -> None:
    """Record one episode and call `then` before the end."""
    with DatasetWriter(path, ENV_ARGS, **options) as writer:
        writer.add_episode(**parts(episode))
        then()


def raiser(error: type[BaseException]) -> Callable[[], None]:
    def interrupt() -> None:
        raise error

    return interrupt


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, episodes: dict[str, Episode], error: type[BaseException]
) -> None:
    seen: list[str] = []
    record_and(lambda: seen.extend(left_behind(tmp_path)), tmp_path / "b.hdf5", episodes["demo_1"])
    assert seen[0].startswith("b.hdf5.tmp-")
    with pytest.raises(error):
        record_and(raiser(error), tmp_path / "a.hdf5", episodes["demo_1"])
    assert left_behind(tmp_path) == ["b.hdf5"]


def test_an_interruption_keeps_the_old_file(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path = tmp_path / "a.hdf5"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        record_and(raiser(RuntimeError), path, episodes["demo_1"], overwrite=True)
    assert path.read_text() == "old"


def test_an_existing_file_is_refused(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path = tmp_path / "a.hdf5"
    path.write_text("old")
    with pytest.raises(LFMError, match=r"a\.hdf5: exists already"):
        DatasetWriter(path, ENV_ARGS)
    with DatasetWriter(path, ENV_ARGS, overwrite=True) as writer:
        writer.add_episode(**parts(episodes["demo_1"]))
    assert read_demonstrations(path, KEYS, representation="delta").lengths == (31,)


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    path, other = tmp_path / "a.hdf5", tmp_path / "other.txt"
    other.write_text("another's")
    with pytest.raises(LFMError, match="exists already"):
        record_and(lambda: path.symlink_to(other), path, episodes["demo_1"])
    assert path.read_text() == "another's"
    assert left_behind(tmp_path) == ["a.hdf5", "other.txt"]


def test_nothing_recorded_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match="no episode"), DatasetWriter(tmp_path / "a.hdf5", ENV_ARGS):
        pass
    assert left_behind(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LFMError, match=r"file/a\.hdf5: cannot be written"):
        record_and(lambda: None, tmp_path / "file" / "a.hdf5", episodes["demo_1"])


FULL = """
import resource, signal, sys
import numpy as np
from lfm_policy.data.writer import DatasetWriter
from lfm_policy.flow.errors import LFMError
with DatasetWriter("kept.hdf5") as writer:
    writer.add_episode({"x": np.zeros((5, 2))}, np.zeros((5, 2)))
# a file may not grow beyond this, as under a quota, though the disk has room
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000_000, 40_000_000))
try:
    with DatasetWriter("full.hdf5") as writer:
        while True:
            writer.add_episode({"x": np.zeros((100_000, 2))}, np.zeros((100_000, 2)))
except LFMError as error:
    print(error)
"""


def test_a_disk_that_is_full_is_told_before_hdf5_meets_it(tmp_path: Path) -> None:
    """It would end the process as the file is closed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = r"full\.hdf5: cannot be written \(File too large: \d+ MB more are needed\); make room or choose .*\n"
    assert re.fullmatch(told, done.stdout)
    assert left_behind(tmp_path) == ["kept.hdf5"]


def test_a_full_disk_is_told_where_no_room_can_be_set_aside(
    tmp_path: Path, episodes: dict[str, Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no call for it."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.delattr(os, "posix_fallocate")
    record_and(lambda: None, tmp_path / "kept.hdf5", episodes["demo_1"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(LFMError, match=r"full\.hdf5: cannot be written \(No space left on device: 34 MB more"):
        record_and(lambda: None, tmp_path / "full.hdf5", episodes["demo_1"])
    assert left_behind(tmp_path) == ["kept.hdf5"]


def test_a_single_episode_has_no_masks(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    """One of nothing could not be read."""
    record_and(lambda: None, tmp_path / "one.hdf5", episodes["demo_1"])
    with h5py.File(tmp_path / "one.hdf5") as file:
        assert "mask" not in file
    assert split_names(tmp_path / "one.hdf5", 0.1, 0) == (["demo_0"], [])


def test_an_attribute_that_cannot_be_stored_is_named(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    """Whoever leaves that episode out goes on."""
    told = r"a\.hdf5: attribute robot of /data/demo_0 cannot be stored .*; give numbers or text, shorter than 64 kB"
    with DatasetWriter(tmp_path / "a.hdf5") as writer:
        for robot in (object(), np.zeros(10_000)):
            with pytest.raises(UnfitEpisode, match=told):
                writer.add_episode(**parts(episodes["demo_1"]) | {"attrs": {"robot": robot}})
        assert writer.add_episode(**parts(episodes["demo_1"])) == "demo_0"
    assert split_names(tmp_path / "a.hdf5", 0, 0) == (["demo_0"], [])


def test_a_mask_of_nothing_is_left_out(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    with DatasetWriter(tmp_path / "a.hdf5", masks={"train": ["demo_0"], "valid": []}) as writer:
        writer.add_episode(**parts(episodes["demo_1"]))
    with open_hdf5(tmp_path / "a.hdf5") as file:
        assert masks(file) == {"train": ["demo_0"]}


def test_a_folder_that_cannot_be_flushed_does_not_cost_the_file(
    tmp_path: Path, episodes: dict[str, Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have none that can."""
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    record_and(lambda: None, tmp_path / "a.hdf5", episodes["demo_1"])
    assert left_behind(tmp_path) == ["a.hdf5"]


def test_use_without_a_with_block(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    with pytest.raises(LFMError, match="not open"):
        DatasetWriter(tmp_path / "a.hdf5", ENV_ARGS).add_episode(**parts(episodes["demo_1"]))


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("rewards", np.zeros(30), "demo_1/rewards has 30 rows, actions 31"),
        ("actions", np.zeros((31, 8)), r"demo_1/actions has rows of \(8,\), the first episode of \(7,\)"),
        ("actions", np.full((31, 7), np.nan), "demo_1/actions is NaN or infinite at step 0"),
        ("actions", np.zeros((0, 7)), "rows"),
        ("force", np.zeros((31, 2)), r"demo_1/force has rows of \(2,\), the first episode of None"),
        ("states", None, r"demo_1/states has rows of None, the first episode of \(32,\)"),
    ],
)
def test_episodes_that_do_not_fit(
    tmp_path: Path, episodes: dict[str, Episode], key: str, value: np.ndarray | None, line: str
) -> None:
    good = parts(episodes["demo_1"])
    with DatasetWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
        writer.add_episode(**good)
        with pytest.raises(LFMError, match=line):
            writer.add_episode(**good | {key: value})
        assert writer.add_episode(**good) == "demo_1"
    with open_hdf5(tmp_path / "a.hdf5") as file:
        assert list(file["data"]) == ["demo_0", "demo_1"]


def test_robomimic_reads_it(tmp_path: Path, episodes: dict[str, Episode]) -> None:
    from robomimic.utils import file_utils, obs_utils

    path = tmp_path / "lift.hdf5"
    with DatasetWriter(path, ENV_ARGS) as writer:
        for episode in episodes.values():
            writer.add_episode(**parts(episode))
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": KEYS}})
    assert file_utils.get_env_metadata_from_dataset(str(path)) == ENV_ARGS
    shapes = file_utils.get_shape_metadata_from_dataset(str(path), all_obs_keys=KEYS)
    assert shapes["ac_dim"] == 7
    assert shapes["all_shapes"]["object"] == [10]
