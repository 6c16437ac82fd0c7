"""Videos of rollouts: episodes side by side, each framed in green or red once it is over."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from lfm_policy.data.replay import replay_states
from lfm_policy.evaluation.environment import EnvSpec, env_name
from lfm_policy.evaluation.episode import Row, reproducible, run_episode
from lfm_policy.evaluation.files import replacing
from lfm_policy.evaluation.rollout import RolloutJob, one_thread
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar

SUCCESS, FAILURE, GAP = (46, 160, 67), (207, 52, 44), (255, 255, 255)
BORDER, SPACE = 4, 4
# the last frames stay, so that the end can be seen before a player starts over
HOLD_SECONDS = 1.5


class VideoUnavailable(LFMError):
    """No video can be made here; the message says which package would bring it."""


class Clip:
    """Frames (H, W, 3) uint8 of one episode, kept in an unnamed file: six of 700 steps would fill 800 MB."""

    def __init__(self) -> None:
        self.success = False
        self.length = 0
        self._shape: tuple[int, ...] = ()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the clip)

    def append(self, env: gymnasium.Env) -> None:
        """Render one more frame."""
        frame = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise VideoUnavailable(f"environment {env_name(env)}: render() gives no picture")
        self._shape = frame.shape
        self._file.write(np.ascontiguousarray(frame, dtype=np.uint8).tobytes())
        self.length += 1

    def frame(self, index: int) -> np.ndarray:
        """Frame `index`; past the end the last one, framed in the colour of the outcome."""
        size = math.prod(self._shape)
        self._file.seek(min(index, self.length - 1) * size)
        frame = np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape).copy()
        if index >= self.length - 1:
            colour = SUCCESS if self.success else FAILURE
            for edge in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
                frame[edge] = colour
        return frame


@dataclass
class Film:
    """Clips of some episodes, and what to tell of them: seeds whose row differed on re-running."""

    clips: list[Clip]
    warnings: list[str]

    def __len__(self) -> int:
        return max(clip.length for clip in self.clips)

    def grid(self, index: int) -> np.ndarray:
        """All clips at step `index`, in rows and columns; even height and width, as h264 wants."""
        return tile([clip.frame(index) for clip in self.clips])


def film(job: RolloutJob, rows: Sequence[Row], progress: bool = False) -> Film:
    """Run the episodes of `rows` again, with pictures.

    VideoUnavailable if the environment cannot render here. The rows must come out the same, times aside:
    `warnings` has a line for each that does not.
    """
    env = _rendering(job.make_env, rows[0]["seed"])
    policy, result = job.source(), Film([], [])
    with contextlib.closing(env), one_thread(), progress_bar("filming", len(rows), progress) as bar:
        for row in rows:
            clip = Clip()
            again = run_episode(policy, env, row["seed"], job.max_steps, on_step=clip.append).row
            clip.success = again["success"]
            result.clips.append(clip)
            result.warnings += _differences(row, again)
            bar.update()
    return result


def film_demonstrations(path: str | Path, env: EnvSpec, names: Sequence[str], progress: bool = False) -> Film:
    """Show the recorded states of demonstrations again, with pictures.

    VideoUnavailable if the environment cannot render here; LFMError if the states cannot be restored.
    """
    clips: dict[str, Clip] = {}
    bar = progress_bar("filming", len(names), progress)

    def watch(name: str, number: int, shown: gymnasium.Env) -> None:
        if number == 0:  # for the second time where a later one's model was refused
            bar.update(name not in clips)
            clips[name] = Clip()
        clips[name].append(shown)

    # what cannot be rendered would look like states that cannot be restored
    _rendering(env.make, 0).close()
    with bar:
        succeeded = replay_states(path, partial(env.make, render_mode="rgb_array"), names, watch).succeeded
    for name, clip in clips.items():
        clip.success = succeeded[name]
    return Film(list(clips.values()), [])


def tile(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of one size in a grid about as wide as it is high, wider if in doubt."""
    height, width, _ = frames[0].shape
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    shape = (rows * (height + SPACE) - SPACE, columns * (width + SPACE) - SPACE)
    canvas = np.full((shape[0] + shape[0] % 2, shape[1] + shape[1] % 2, 3), GAP, np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // columns * (height + SPACE), index % columns * (width + SPACE)
        canvas[top : top + height, left : left + width] = frame
    return canvas


def write_video(path: str | Path, movie: Film, fps: float) -> None:
    """Write an mp4 (h264, yuv420p) that browsers play; VideoUnavailable without imageio-ffmpeg."""
    ffmpeg = _ffmpeg()
    first = movie.grid(0)
    with replacing(path) as temporary:
        writer = ffmpeg.write_frames(
            str(temporary),
            (first.shape[1], first.shape[0]),
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            output_params=["-crf", "20", "-preset", "slow", "-movflags", "+faststart"],
        )
        writer.send(None)
        try:
            for frame in _frames(movie, fps):
                writer.send(frame)
        finally:
            writer.close()


def write_poster(path: str | Path, movie: Film) -> None:
    """Write a PNG of the end of all episodes."""
    from matplotlib.image import imsave

    with replacing(path) as temporary:
        imsave(temporary, movie.grid(len(movie) - 1))


def check_ffmpeg() -> None:
    """VideoUnavailable without imageio-ffmpeg."""
    _ffmpeg()


def _frames(movie: Film, fps: float) -> Iterator[np.ndarray]:
    for index in range(len(movie) + round(HOLD_SECONDS * fps)):
        yield movie.grid(index)


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise VideoUnavailable("imageio-ffmpeg is not installed; pip install 'lfm_policy[video]' brings it") from error
    return imageio_ffmpeg


def _rendering(make: Callable[..., gymnasium.Env], seed: int) -> gymnasium.Env:
    """An environment that renders; VideoUnavailable if it does not."""
    try:
        env = make(render_mode="rgb_array")
        env.reset(seed=seed)
        env.render()
    except (LFMError, RuntimeError, ImportError, gymnasium.error.Error) as error:
        raise VideoUnavailable(" ".join(str(error).split())) from error
    return env


def _differences(row: Row, again: Row) -> list[str]:
    before, after = reproducible(row), reproducible(again)
    told = [f"{key} {before[key]}, now {after[key]}" for key in before if before[key] != after[key]]
    return [f"seed {row['seed']} came out otherwise while filmed: {'; '.join(told)}"] if told else []
