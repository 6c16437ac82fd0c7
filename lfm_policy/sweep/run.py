"""A sweep from its plan to its comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lfm_policy.evaluation.comparison import Comparison
from lfm_policy.evaluation.executor import map_seeds
from lfm_policy.sweep.plan import Run, SweepConfig
from lfm_policy.sweep.rollouts import evaluate_runs, summarise
from lfm_policy.sweep.training import train_runs

Report = Callable[[str, Comparison, bool], None]


def run_task(
    config: SweepConfig, task: str, runs: Sequence[Run], report: Report, say: Callable[[str], None], progress: bool
) -> None:
    """Train and roll out the runs of a task, wave by wave; `report` gets the comparison after each, and if it is whole.

    A wave is one budget and one training seed of every method: each ends with a whole table. The baseline is the
    first method if the config names none.
    """
    executor = config.place()
    seeds = range(config.rollout_seed, config.rollout_seed + config.tasks[task].n_rollouts)
    baseline = config.baseline or next(iter(config.methods))
    for done in waves(runs):
        train_runs(done, partial(map_seeds, n_procs=executor), say, progress)
        rows = evaluate_runs(done, seeds, executor, progress)
        report(task, summarise(rows, done, baseline), len(done) == len(runs))


def waves(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """All runs up to the end of each wave, in order: those of the same budget and seed belong together."""
    done: list[Run] = []
    for _, wave in itertools.groupby(runs, key=lambda run: (run.budget, run.seed)):
        done += wave
        yield list(done)


def task_folder(config: SweepConfig, task: str) -> Path:
    """Where a task's demonstrations, runs and comparison are."""
    return Path(config.output_dir) / task
