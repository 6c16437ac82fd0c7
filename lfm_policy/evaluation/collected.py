"""What a collection came to: how often its expert succeeds, how long episodes are, which strategies it chose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfm_policy.evaluation.demonstration import Attempt
from lfm_policy.evaluation.statistics import wilson


@dataclass(frozen=True)
class Collected:
    """A file of demonstrations and the attempts that they were taken from, in the order of their seeds.

    seconds: wall-clock of this call. n_kept: attempts that an interrupted call had finished before. context:
    command, versions, hardware, environment, expert, processes.
    """

    path: Path
    attempts: tuple[Attempt, ...]
    n_frames: int
    seconds: float
    n_kept: int = 0
    context: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_episodes(self) -> int:
        """Demonstrations in the file."""
        return sum(attempt.success for attempt in self.attempts)

    @property
    def n_attempts(self) -> int:
        """Successes and failures."""
        return len(self.attempts)

    def summary(self) -> dict[str, Any]:
        """Success rate with its 95 % interval, lengths and strategies of the demonstrations, time of each.

        The time of a demonstration counts the failures on the way to it.
        """
        demonstrations = [attempt for attempt in self.attempts if attempt.success]
        n = len(demonstrations)
        core_seconds = sum(attempt.core_seconds for attempt in self.attempts)
        return {
            "n_attempts": self.n_attempts,
            "n_success": n,
            "success_rate": n / self.n_attempts,
            "wilson95": list(wilson(n, self.n_attempts)),
            "failed_seeds": [attempt.seed for attempt in self.attempts if not attempt.success],
            "lengths": describe_lengths([attempt.length for attempt in demonstrations]),
            "strategies": count_strategies(attempt.strategy for attempt in demonstrations),
            "n_kept": self.n_kept,
            # of a call that made all of them
            "wall_seconds_per_episode": None if self.n_kept else round(self.seconds / n, 3),
            "core_seconds_per_episode": round(core_seconds / n, 3),
        }

    def to_json(self) -> dict[str, Any]:
        """What is written to the results file; the attempts come last."""
        return {**self.context, **self.summary(), "attempts": [asdict(attempt) for attempt in self.attempts]}


def describe_lengths(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, standard deviation (of these episodes, divided by n), extremes and median, in steps."""
    return {
        "mean": float(np.mean(lengths)),
        "sd": float(np.std(lengths)),
        "min": int(np.min(lengths)),
        "median": float(np.median(lengths)),
        "max": int(np.max(lengths)),
    }


def count_strategies(strategies: Iterable[dict[str, str]]) -> dict[str, dict[str, int]]:
    """How many episodes chose each value of each choice, by name."""
    counts: dict[str, Counter[str]] = {}
    for strategy in strategies:
        for choice, value in strategy.items():
            counts.setdefault(choice, Counter())[value] += 1
    return {choice: dict(sorted(counts[choice].items())) for choice in sorted(counts)}
