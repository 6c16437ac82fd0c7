"""Films of every task's expert and of its LFM policy, and a strip of each: `python -m benchmarks.task_films`.

For each task of `--tasks`, from a sweep's folder (`make benchmark`): expert.mp4 of three demonstrations, policy.mp4 of
the first evaluation seeds with the longest trained policy of `--method`; and a picture for the contact sheet,
`--out`/TASK.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from lfm_policy.data.hdf5 import open_hdf5, read_env_args
from lfm_policy.data.replay import spread
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.files import replacing
from lfm_policy.evaluation.rollout import evaluate
from lfm_policy.evaluation.video import Film, film, film_demonstrations, write_video

FRAMES = 6
EPISODES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--tasks", nargs="+", default=["lift", "can", "square", "toolhang", "transport", "pusht"])
    parser.add_argument("--method", default="lfm")
    parser.add_argument("--out", type=Path, default=Path("docs/tasks"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        folder = arguments.folder / task
        strips = {"demonstration": demonstrations(folder)}
        strips[arguments.method] = rollouts(folder, longest(folder / arguments.method))
        draw(arguments.out / f"{task}.png", strips)


def longest(folder: Path, seed: int = 0) -> Path:
    """The run of the largest budget with this training seed: `seed_0`, or the last of `seed_0_budget_0.5`."""
    runs = sorted(folder.glob(f"seed_{seed}_budget_*"), key=lambda run: float(run.name.rpartition("_")[2]))
    whole = folder / f"seed_{seed}"
    if not runs and not whole.is_dir():
        raise SystemExit(f"error: {folder}: holds no run of training seed {seed}; lfm sweep makes them")
    return whole if whole.is_dir() else runs[-1]


def demonstrations(folder: Path) -> list[np.ndarray]:
    """Film some demonstrations of a task; a strip of the first."""
    path = folder / "data.hdf5"
    with open_hdf5(path) as file:
        names = spread(sorted(file["data"], key=lambda name: int(name.removeprefix("demo_"))), EPISODES)
        env_args = read_env_args(file)
    movie = film_demonstrations(path, EnvSpec.of_env_args(env_args, path), names, progress=True)
    write_video(folder / "expert.mp4", movie, env_args.get("env_kwargs", {}).get("control_freq", 10))
    return strip(movie)


def rollouts(folder: Path, run: Path) -> list[np.ndarray]:
    """Film rollouts of a policy; a strip of the first that succeeds, or of the first."""
    evaluation = evaluate(run, EPISODES, progress=True)
    rows = sorted(evaluation.episodes, key=lambda row: not row["success"])
    movie = film(evaluation.job, rows, progress=True)
    write_video(folder / "policy.mp4", movie, evaluation.job.fps)
    return strip(movie)


def strip(movie: Film) -> list[np.ndarray]:
    """Evenly spaced frames of the first clip."""
    clip = movie.clips[0]
    return [clip.frame(int(index)) for index in np.linspace(0, clip.length - 1, FRAMES)]


def draw(path: Path, strips: dict[str, list[np.ndarray]]) -> None:
    """One strip a line, its name above it."""
    figure, axes = plt.subplots(len(strips), 1, figsize=(9, 1.75 * len(strips)), squeeze=False)
    for axis, (name, frames) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(np.concatenate(frames, axis=1))
        axis.set_title(name, loc="left", fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


if __name__ == "__main__":
    main()
