"""Windows: the drawn timeline, Diffusion Policy's count, and robomimic's own SequenceDataset item by item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lfm_policy.data import DatasetWriter, chunk_indices, read_demonstrations
from lfm_policy.flow.errors import LFMError
from tests.data.recordings import ENV_ARGS, smooth


def test_the_docstring_timeline() -> None:
    windows = chunk_indices([5], n_obs_steps=2, horizon=4, pad_before=1, pad_after=2)
    drawn = [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 4], [3, 4, 4, 4]]
    assert windows.tolist() == drawn
    assert windows.dtype == torch.int64


@pytest.mark.parametrize(("to", "tp", "ta"), [(1, 1, 1), (2, 16, 8), (3, 10, 4), (4, 4, 4)])
@pytest.mark.parametrize("lengths", [[1], [40, 1, 7, 16], [100]])
def test_windows_against_a_loop(lengths: list[int], to: int, tp: int, ta: int) -> None:
    expected, offset = [], 0
    for length in lengths:
        starts = list(range(-(to - 1), length - tp + ta)) or [-(to - 1)]
        for start in starts:
            expected.append([offset + min(max(start + i, 0), length - 1) for i in range(tp)])
        offset += length
    assert chunk_indices(lengths, to, tp, to - 1, ta - 1).tolist() == expected


def test_no_window_crosses_an_episode() -> None:
    lengths = [3, 20, 1, 8]
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    windows = owner[chunk_indices(lengths, 2, 8, 1, 7)]
    assert (windows == windows[:, :1]).all()


def test_every_step_is_once_the_newest_observation_with_full_padding() -> None:
    windows = chunk_indices([9, 4, 1], n_obs_steps=3, horizon=8, pad_before=2, pad_after=5)
    assert windows[:, 2].tolist() == list(range(14))


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ((3, 2, 0, 0), "n_obs_steps"),
        ((0, 2, 0, 0), "n_obs_steps"),
        ((1, 4, 4, 0), "pad_before"),
        ((1, 4, 0, -1), "pad_after"),
    ],
)
def test_impossible_sizes(sizes: tuple[int, int, int, int], named: str) -> None:
    with pytest.raises(LFMError, match=named):
        chunk_indices([10], *sizes)


def test_no_episode() -> None:
    with pytest.raises(LFMError, match="episode"):
        chunk_indices([], 1, 4, 0, 0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of our writer with twelve episodes, so that demo_10 must not come before demo_2."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("chunks") / "lift.hdf5"
    with DatasetWriter(path, ENV_ARGS) as writer:
        for length in rng.integers(4, 9, size=12).tolist():
            obs = {"object": smooth(rng, length, 10), "robot0_eef_pos": smooth(rng, length, 3)}
            final = {key: values[-1] + 1 for key, values in obs.items()}
            done = np.arange(length) == length - 1
            writer.add_episode(obs, smooth(rng, length, 7), done, done, final_obs=final)
    return path


@pytest.mark.parametrize(("frame_stack", "seq_length"), [(1, 1), (1, 4), (2, 3), (3, 1), (2, 16)])
@pytest.mark.parametrize("pad_frame_stack", [True, False])
@pytest.mark.parametrize("pad_seq_length", [True, False])
def test_windows_are_robomimics(
    recorded: Path, frame_stack: int, seq_length: int, pad_frame_stack: bool, pad_seq_length: bool
) -> None:
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    if not pad_seq_length and frame_stack - 1 + seq_length > 4:
        seq_length = 2  # robomimic refuses episodes shorter than a window; the shortest here has 4 steps
    keys = ("object", "robot0_eef_pos")
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": list(keys)}})
    theirs = SequenceDataset(
        str(recorded),
        keys,
        ("actions",),
        frame_stack=frame_stack,
        seq_length=seq_length,
        pad_frame_stack=pad_frame_stack,
        pad_seq_length=pad_seq_length,
    )
    ours = read_demonstrations(recorded, keys, representation="delta")
    windows = ours.windows(
        frame_stack,
        frame_stack - 1 + seq_length,
        pad_before=frame_stack - 1 if pad_frame_stack else 0,
        pad_after=seq_length - 1 if pad_seq_length else 0,
    )
    assert len(windows) == len(theirs)
    obs, actions = ours.gather(windows, n_obs_steps=windows.shape[1])
    for index in range(len(theirs)):
        item = theirs[index]
        both = np.concatenate([item["obs"][key] for key in keys], axis=-1).astype(np.float32)
        np.testing.assert_array_equal(obs[index].numpy(), both)
        np.testing.assert_array_equal(actions[index].numpy(), item["actions"].astype(np.float32))
