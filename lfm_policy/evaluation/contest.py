"""Paired rollouts of a comparison's policies: the best candidates chosen, every row kept as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lfm_policy.evaluation.comparison import Evaluated
from lfm_policy.evaluation.contestants import Contestant
from lfm_policy.evaluation.episode import Row
from lfm_policy.evaluation.executor import Executor
from lfm_policy.evaluation.rows import RowStore, roll_out
from lfm_policy.flow.errors import LFMError
from lfm_policy.provenance import without_cwd

ROWS, SELECTION = "rows", "selection"
OUTPUTS = ("comparison.json", "comparison.txt", "comparison.png")


@dataclass(frozen=True)
class Contest:
    """Where rows go (`folder`/rows), the environment's step limit, and where episodes run."""

    folder: Path
    max_steps: int | None
    executor: Executor = field(default_factory=Executor)
    progress: bool = False

    def evaluate(self, methods: Mapping[str, Sequence[Contestant]], seeds: range) -> dict[str, list[Evaluated]]:
        """Rows of every checkpoint on `seeds`, by label; LFMError before the first where a file holds others' rows."""
        stores = self._stores(methods, self.folder / ROWS)
        return {
            label: [self._evaluated(run, store, seeds) for run, store in zip(runs, stores[label], strict=True)]
            for label, runs in methods.items()
        }

    def select(self, candidates: Mapping[str, Sequence[Contestant]], seeds: range) -> dict[str, int]:
        """Which candidate of every label succeeds most often on `seeds`; of equals the highest reward, then the first.

        Their rows are kept in rows/selection.
        """
        stores = self._stores(candidates, self.folder / ROWS / SELECTION)
        chosen = {}
        for label, runs in candidates.items():
            scores = [_score(self._rows(run, store, seeds)) for run, store in zip(runs, stores[label], strict=True)]
            chosen[label] = scores.index(max(scores))
        return chosen

    def _stores(self, methods: Mapping[str, Sequence[Contestant]], folder: Path) -> dict[str, list[RowStore]]:
        return {
            label: [
                RowStore(folder / f"{name}.jsonl", run.identity(self.max_steps))
                for name, run in zip(file_names(label, runs), runs, strict=True)
            ]
            for label, runs in methods.items()
        }

    def _rows(self, run: Contestant, store: RowStore, seeds: range) -> list[Row]:
        return roll_out(store, run.job, seeds, self.executor, self.progress, store.path.stem)

    def _evaluated(self, run: Contestant, store: RowStore, seeds: range) -> Evaluated:
        return Evaluated(
            run.label,
            self._rows(run, store, seeds),
            store.identity,
            run.training_seed,
            run.nfe,
            run.multiply_adds,
            run.step,
            run.epochs,
            without_cwd(str(run.folder)),
            str(store.path.relative_to(self.folder)),
        )


def _score(rows: Sequence[Row]) -> tuple[float, float]:
    return sum(row["success"] for row in rows) / len(rows), sum(row["max_reward"] for row in rows) / len(rows)


def file_names(label: str, runs: Sequence[Contestant]) -> list[str]:
    """`label`, or with the training seed of each of several runs, or with their number where seeds tell them not."""
    if len(runs) == 1:
        return [label]
    seeds = [run.training_seed for run in runs]
    if None in seeds or len(set(seeds)) < len(seeds):
        return [f"{label}.run{number}" for number in range(1, len(runs) + 1)]
    return [f"{label}.seed{seed}" for seed in seeds]


def check_file_names(methods: Mapping[str, Sequence[Contestant]]) -> None:
    """LFMError where two labels would keep their rows in one file."""
    names = [name for label, runs in methods.items() for name in file_names(label, runs)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LFMError(f"{twice[0]}: names two files of rows; give the policy of that name another one")


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the folder; `overwrite` removes an earlier comparison from it. LFMError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            shutil.rmtree(folder / ROWS, ignore_errors=True)
            for name in OUTPUTS:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise LFMError(f"--output_dir {folder}: cannot be written ({error.strerror}); choose another") from error
