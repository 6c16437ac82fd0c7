"""Experts that `lfm collect --expert` takes for the point environment: with strategies, failures and interruptions."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from tests.helpers.point import PointExpert

# seeds that are begun are noted in this file, if the variable is set
BEGUN = "LFM_TEST_BEGUN"
# "9 25": the command gets signal 9 when seed 25 is begun
STOP = "LFM_TEST_STOP"
STOPPED = "tests.helpers.experts:stopped"
SIDED = "tests.helpers.experts:sided"
RAISING = "tests.helpers.experts:raising"


class SidedExpert(PointExpert):
    """Comes from the left in odd seeds, from the right in even ones, and fails in every third."""

    def __init__(self, env: Any, seed: int) -> None:
        super().__init__(env.unwrapped, lazy=seed % 3 == 2)
        self.seed = seed
        self.strategy: dict[str, str] = {}

    def act(self) -> Any:
        self.strategy["side"] = "left" if self.seed % 2 else "right"
        return super().act()


def sided(env: Any, seed: int) -> SidedExpert:
    """The expert that has two strategies."""
    return SidedExpert(env, seed)


def stopped(env: Any, seed: int) -> SidedExpert:
    """The same, whose command is stopped as the environment's variables say."""
    if BEGUN in os.environ:
        with Path(os.environ[BEGUN]).open("a") as file:
            file.write(f"{seed}\n")
    if STOP in os.environ:
        signal, at = map(int, os.environ[STOP].split())
        if seed == at:
            in_worker = multiprocessing.parent_process() is not None
            os.kill(os.getppid() if in_worker else os.getpid(), signal)
            time.sleep(30 if in_worker else 0)
    return SidedExpert(env, seed)


class RaisingExpert(PointExpert):
    """Raises after so many steps."""

    def __init__(self, env: Any, seed: int, steps: int) -> None:
        super().__init__(env.unwrapped, lazy=False)
        self.seed, self.left = seed, steps

    def act(self) -> Any:
        if not self.left:
            raise KeyError(f"seed {self.seed} has no cube")
        self.left -= 1
        return super().act()


def raising(env: Any, seed: int) -> PointExpert:
    """An expert that raises in seeds 3, 7, 11 …, and does well in others."""
    return RaisingExpert(env, seed, 2) if seed % 4 == 3 else PointExpert(env.unwrapped, lazy=False)


def hopeless(env: Any, seed: int) -> PointExpert:
    """One that raises at once."""
    return RaisingExpert(env, seed, 0)


def undecided(env: Any, seed: int) -> PointExpert:
    """An expert that finds no plan in seeds 3, 7, 11 …, as it is made."""
    if seed % 4 == 3:
        raise ArithmeticError(f"seed {seed} has no plan")
    return PointExpert(env.unwrapped, lazy=False)
