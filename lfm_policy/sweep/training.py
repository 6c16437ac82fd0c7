"""Training runs of a sweep over processes: those that are done are left alone, those broken off go on."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import platform
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lfm_policy.data.saved import checkpoints
from lfm_policy.evaluation.executor import WorkerDied
from lfm_policy.flow import LFMError
from lfm_policy.flow.errors import one_line
from lfm_policy.policy import find_checkpoint
from lfm_policy.policy.serialization import read_description
from lfm_policy.progress import progress_bar
from lfm_policy.sweep.plan import Run
from lfm_policy.training import TrainConfig, Trainer
from lfm_policy.training.config import DataConfig
from lfm_policy.training.folder import SIGNALS
from lfm_policy.training.logging import entries
from lfm_policy.training.setup import identify

ROWS = "rows"


@dataclass(frozen=True)
class TrainJob:
    """All that a process needs to train runs by their number."""

    configs: tuple[TrainConfig, ...]
    folder: str  # that their paths begin at

    def __call__(self) -> TrainTask:
        try:
            os.chdir(self.folder)  # another machine's processes start elsewhere
        except OSError as error:
            raise LFMError(
                f"{self.folder}: is not on {platform.node()} ({error.strerror}); machines of a sweep share its folder"
            ) from error
        return TrainTask(self.configs)


class TrainTask:
    """Trains the run of a number to its end, from its last checkpoint where it has one; gives whether it is done."""

    def __init__(self, configs: Sequence[TrainConfig]) -> None:
        torch.set_num_threads(1)
        self.configs = configs

    def __call__(self, number: int) -> bool:
        config = self.configs[number]
        begun = has_checkpoint(config)
        # Ctrl-C reaches a pool's processes through their parent alone, which ends them
        signals = SIGNALS if multiprocessing.parent_process() is None else (signal.SIGTERM,)
        try:
            if not begun:
                # rows, like all that a run without a checkpoint has left, belong to weights that are gone
                shutil.rmtree(Path(config.output_dir) / ROWS, ignore_errors=True)
            config = replace(config, resume=begun, overwrite=not begun)
            trainer = Trainer(config, _quiet, progress=False, signals=signals)
            trainer.run()
        except LFMError as error:
            raise LFMError(f"{config.output_dir}: {error}") from error
        except Exception as error:
            raise LFMError(f"{config.output_dir}: {one_line(error)}") from error
        return trainer.fitter.done

    def close(self) -> None:
        """Nothing is held."""


def train_runs(
    runs: Sequence[Run], map_numbers: Callable[..., Any], say: Callable[[str], None], progress: bool = True
) -> None:
    """Train those runs that are not done yet; `map_numbers` is an executor as `map_seeds`."""
    left = [run for run in runs if not is_done(run)]
    if not left:
        return
    results = map_numbers(TrainJob(tuple(run.config for run in left), os.getcwd()), range(len(left)))
    with contextlib.closing(results), progress_bar("training runs", len(left), progress, unit="run") as bar:
        try:
            for run, done in zip(left, results, strict=True):
                bar.update()
                if not done:
                    say(f"{run.folder}: training was stopped; give the same command again to go on")
                    raise KeyboardInterrupt
                say(f"trained {run.folder} in {training_seconds(run.folder):.0f} s")
        except WorkerDied as died:
            raise LFMError(f"{left[died.seed].folder}: {died.told}") from died


def is_done(run: Run) -> bool:
    """Whether a run has been trained to its end; LFMError where its folder holds another run than is asked for."""
    if not has_checkpoint(run.config):
        return False
    description = read_description(find_checkpoint(run.folder))
    changed = run.config.differences(description["config"])
    if description["dataset"]["sha256"] != _data_hash(run.config.data, run.seed):
        changed.append(f"data: is not the demonstrations of {run.config.data.path} as they are now")
    if changed:
        raise LFMError(
            f"{run.folder}: was trained with another config ({'; '.join(changed)}); "
            "remove that folder, or name another output_dir"
        )
    return description["step"] == description.get("total_steps")


@functools.lru_cache(maxsize=8)
def _data_hash(data: DataConfig, seed: int) -> str:
    return str(identify(data, seed)["sha256"])


def has_checkpoint(config: TrainConfig) -> bool:
    """Whether a run has something to resume from."""
    return bool(checkpoints(Path(config.output_dir)))


def training_seconds(run: Path) -> float:
    """Wall seconds that a run's steps took, pushes and held-out losses included, whatever its interruptions."""
    step, seconds = 0, 0.0
    for row in entries(run):
        if "steps_per_second" in row and row["step"] > step:
            seconds += (row["step"] - step) / row["steps_per_second"]
            step = row["step"]
    return seconds


def _quiet(line: str) -> None:
    """Several runs at a time would talk at once."""
