"""Tasks for the executors; a spawned process imports them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from lfm_policy.progress import progress_bar


class Square:
    """Squares its seed; slower for even ones, so that results are ready out of order."""

    def __call__(self, seed: int) -> int:
        time.sleep(0.02 if seed % 2 == 0 else 0.0)
        return seed * seed

    def close(self) -> None:
        pass


class Threads:
    """The same, and how many threads the process computes with."""

    def __call__(self, seed: int) -> tuple[int, int, str]:
        return Square()(seed), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    def close(self) -> None:
        pass


class Fails(Square):
    """Raises for seed 3."""

    def __call__(self, seed: int) -> int:
        if seed == 3:
            raise ZeroDivisionError("no\nway")
        return seed


class Dies(Square):
    """Is killed at seed 3, as a process that takes too much memory is."""

    def __call__(self, seed: int) -> int:
        if seed == 3:
            os._exit(7)
        return seed


class Bars(Square):
    """Counts on a bar that is not shown, as trainings in a pool do."""

    def __call__(self, seed: int) -> int:
        with progress_bar("seed", 1, shown=False) as bar:
            bar.update()
        return seed


class Sleeps(Square):
    """Takes longer than any test waits."""

    def __call__(self, seed: int) -> int:
        time.sleep(600)
        return seed


class Noting(Threads):
    """Notes in a file which process begins which seed; is killed at seed 3 the first `deaths` times."""

    def __init__(self, notes: Path, deaths: int = 0) -> None:
        self.notes, self.deaths = notes, deaths

    def __call__(self, seed: int) -> tuple[int, int, str]:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {seed}\n")
        begun = [line.split()[1] for line in self.notes.read_text().splitlines()]
        if seed == 3 and begun.count("3") <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(seed)
