"""Tasks for the executors; a spawned process imports them by name."""

from __future__ import annotations

import os
import time

import torch


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


class Sleeps(Square):
    """Takes longer than any test waits."""

    def __call__(self, seed: int) -> int:
        time.sleep(600)
        return seed
