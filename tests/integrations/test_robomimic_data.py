"""robomimic's SequenceDataset and our reader make the same windows of the same file, index by index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import robomimic.utils.obs_utils as obs_utils
import torch
from robomimic.utils.dataset import SequenceDataset

from lfm_policy.data import DatasetWriter, read_demonstrations
from tests.data.recordings import KEYS, episode, write_robomimic_file

FRAMES, LENGTHS = (1, 2, 4), (1, 3, 15)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """By whether there are episodes shorter than a window, which only padding makes use of."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    numbers = (10, 9, 2, 11)
    long = {f"demo_{number}": episode(rng, 19 + number) for number in numbers}
    short = {"demo_1": episode(rng, 2), "demo_3": episode(rng, 9)}
    masks = {"some": ["demo_11", "demo_2"]}
    return {
        False: write_robomimic_file(folder / "long.hdf5", long, masks=masks),
        True: write_robomimic_file(folder / "short.hdf5", {**long, **short}, masks=masks),
    }


def sequences(
    path: Path, n_frames: int, length: int, pad_before: bool, pad_after: bool, key: str | None
) -> SequenceDataset:
    obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": KEYS, "rgb": []}}])
    return SequenceDataset(
        str(path),
        obs_keys=KEYS,
        dataset_keys=["actions"],
        frame_stack=n_frames,
        seq_length=length,
        pad_frame_stack=pad_before,
        pad_seq_length=pad_after,
        get_pad_mask=True,
        hdf5_cache_mode="all",
        filter_by_attribute=key,
        load_next_obs=False,
    )


@pytest.mark.parametrize("filter_key", [None, "some"])
@pytest.mark.parametrize(("pad_before", "pad_after"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("n_frames", FRAMES)
def test_windows_are_robomimics(
    files: dict[bool, Path], n_frames: int, length: int, pad_before: bool, pad_after: bool, filter_key: str | None
) -> None:
    path = files[pad_before and pad_after]
    theirs = sequences(path, n_frames, length, pad_before, pad_after, filter_key)
    ours = read_demonstrations(path, KEYS, representation="delta", filter_key=filter_key)
    before, after = (n_frames - 1) * pad_before, (length - 1) * pad_after
    windows = ours.windows(n_frames, n_frames - 1 + length, before, after)
    assert len(windows) == len(theirs)
    observations, actions = ours.gather(windows, n_frames)
    for i, item in enumerate(theirs[i] for i in range(len(theirs))):
        joined = np.concatenate([item["obs"][key] for key in KEYS], axis=-1)[:n_frames].astype(np.float32)
        assert np.array_equal(observations[i].numpy(), joined), i
        assert np.array_equal(actions[i].numpy(), item["actions"].astype(np.float32)), i
    # where robomimic says padding, our indices repeat an edge: they do not advance
    outside = np.stack([~theirs[i]["pad_mask"][:, 0].astype(bool) for i in range(len(theirs))])
    still = torch.cat([windows[:, 1:] == windows[:, :-1], torch.zeros(len(windows), 1, dtype=torch.bool)], 1).numpy()
    repeated = still | np.roll(still, 1, axis=1)
    assert (repeated[outside]).all()
    assert outside.any() == (before > 0 or after > 0)


def test_a_file_of_our_writer_is_read_by_robomimic(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    recorded = [episode(rng, length) for length in (7, 12)]
    path = tmp_path / "own.hdf5"
    with DatasetWriter(path, {}) as writer:
        for part in recorded:
            obs = {key: part[f"obs/{key}"] for key in KEYS}
            writer.add_episode(obs, part["actions"], rewards=part["rewards"])
    items = sequences(path, 1, 1, True, True, None)
    assert len(items) == 19
    for key in KEYS:
        read = np.concatenate([items[i]["obs"][key] for i in range(19)])
        np.testing.assert_allclose(read, np.concatenate([part[f"obs/{key}"] for part in recorded]), rtol=1e-6)
    read = np.concatenate([items[i]["actions"] for i in range(19)])
    np.testing.assert_allclose(read, np.concatenate([part["actions"] for part in recorded]), rtol=1e-6)
