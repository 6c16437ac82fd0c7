"""Videos hold the episodes whose rows they stand beside, and are what players expect."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import pytest

from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.rollout import Evaluation, evaluate_policy
from lfm_policy.evaluation.video import (
    BORDER,
    FAILURE,
    GAP,
    HOLD_SECONDS,
    SPACE,
    SUCCESS,
    VideoUnavailable,
    film,
    film_demonstrations,
    tile,
    write_poster,
    write_video,
)
from tests.helpers.point import POINT
from tests.helpers.policies import ProportionalPolicy, noisy, point_spec

SIZE, FPS = 32, 10


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_policy(noisy(), range(100_000, 100_010))


def chosen(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Five successes and a failure."""
    rows = sorted(evaluation.episodes, key=lambda row: row["success"])
    assert not rows[0]["success"]
    assert rows[-1]["success"]
    return rows[:1] + rows[-5:]


def test_a_video_plays_everywhere_and_has_a_frame_for_every_step(tmp_path: Path, evaluation: Evaluation) -> None:
    movie = film(evaluation.job, chosen(evaluation))
    assert movie.warnings == []
    assert len(movie) == max(row["steps"] for row in chosen(evaluation)) + 1
    write_video(tmp_path / "out.mp4", movie, FPS)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "out.mp4"))
    meta = next(reader)
    assert (meta["codec"], meta["fps"]) == ("h264", FPS)
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["size"] == (3 * SIZE + 2 * SPACE, 2 * SIZE + SPACE)
    assert sum(1 for _ in reader) == len(movie) + round(HOLD_SECONDS * FPS)
    assert (tmp_path / "out.mp4").read_bytes().find(b"moov") < 100, "the index comes first, for browsers"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_the_outcome_frames_an_episode_from_its_end_on(evaluation: Evaluation) -> None:
    failure, *successes = chosen(evaluation)
    movie = film(evaluation.job, [failure, successes[0]])
    for clip, row, colour in zip(movie.clips, (failure, successes[0]), (FAILURE, SUCCESS), strict=True):
        steps = row["steps"]
        before, end, later = clip.frame(steps - 1), clip.frame(steps), clip.frame(steps + 50)
        np.testing.assert_array_equal(end, later)
        assert (end[:BORDER] == colour).all()
        assert (end[:, -BORDER:] == colour).all()
        assert not (before[0, 0] == colour).all()


def test_a_grid_keeps_every_picture_whole_and_sizes_even() -> None:
    for count, (rows, columns) in {1: (1, 1), 2: (1, 2), 5: (2, 3), 6: (2, 3), 9: (3, 3)}.items():
        frames = [np.full((7, 5, 3), index, np.uint8) for index in range(count)]
        grid = tile(frames)
        assert grid.shape[0] % 2 == grid.shape[1] % 2 == 0
        assert 0 <= grid.shape[0] - (rows * 7 + (rows - 1) * SPACE) <= 1
        assert 0 <= grid.shape[1] - (columns * 5 + (columns - 1) * SPACE) <= 1
        values, counts = np.unique(grid.reshape(-1, 3)[:, 0], return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) | {GAP[0]: 0} == {
            **dict.fromkeys(range(count), 35),
            GAP[0]: 0,
        }


def test_a_poster_is_the_end_of_the_video(tmp_path: Path, evaluation: Evaluation) -> None:
    from matplotlib.image import imread

    movie = film(evaluation.job, chosen(evaluation)[:2])
    write_poster(tmp_path / "poster.png", movie)
    picture = (imread(tmp_path / "poster.png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(picture, movie.grid(len(movie) - 1))


def test_a_row_that_comes_out_otherwise_is_told(evaluation: Evaluation) -> None:
    row = evaluation.episodes[0]
    movie = film(evaluation.job, [{**row, "steps": 99}])
    assert movie.warnings == [f"seed {row['seed']} came out otherwise while filmed: steps 99, now {row['steps']}"]


def test_demonstrations_are_shown_in_every_recorded_state(tmp_path: Path) -> None:
    """The environment draws its point as one black pixel: read back, it goes where the file says."""
    path = tmp_path / "data.hdf5"
    record_demonstrations(path, EnvSpec(POINT), 2, seed=3)
    movie = film_demonstrations(path, EnvSpec(POINT), ["demo_1", "demo_0"])
    with h5py.File(path) as file:
        for name, clip in zip(("demo_1", "demo_0"), movie.clips, strict=True):
            positions = file[f"data/{name}/states"][:, 1:3]
            assert clip.length == len(positions)
            assert clip.success
            for index, position in enumerate(positions[:-1]):  # the last one is framed
                ((row, column),) = np.argwhere(clip.frame(index)[..., 0] == 0)
                np.testing.assert_array_equal([column, row], np.clip(16 + 16 * position, 0, 31).astype(int))
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["model_file"] = "<strange/>"
    again = film_demonstrations(path, EnvSpec(POINT), ["demo_1", "demo_0"])
    assert [clip.length for clip in again.clips] == [clip.length for clip in movie.clips], "begun again, shown once"
    with pytest.raises(VideoUnavailable, match="no OpenGL; apt install libegl1"):
        film_demonstrations(path, EnvSpec(POINT, {"has_gl": False}), ["demo_0"])


def test_without_opengl_the_package_that_brings_it_is_named() -> None:
    policy = ProportionalPolicy(point_spec(env_kwargs={"has_gl": False}))
    evaluation = evaluate_policy(policy, [100_000])
    with pytest.raises(VideoUnavailable, match="no OpenGL; apt install libegl1"):
        film(evaluation.job, evaluation.episodes)


def test_without_imageio_the_extra_is_named(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("imageio"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    movie = film(evaluation.job, evaluation.episodes[:1])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VideoUnavailable, match=r"lfm_policy\[video\]"):
        write_video(tmp_path / "out.mp4", movie, FPS)
    assert not list(tmp_path.iterdir())
