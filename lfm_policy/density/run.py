"""A run of `lfm density train`: table in, checkpoints, evaluation and plots out, resumable at any step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lfm_policy.data.tables import Table
from lfm_policy.density.config import DensityConfig
from lfm_policy.density.fitting import Evaluation
from lfm_policy.density.storage import find_density, load_weights, read_description, write_density
from lfm_policy.flow import LFMError
from lfm_policy.progress import progress_bar
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.folder import (
    RUN_PARTS,
    Interruption,
    check_output_dir,
    check_unchanged,
    leave_nothing,
    prepare_folder,
)
from lfm_policy.training.logging import RunLog

EVALUATION_FILE, PLOTS = "evaluation.json", "plots"
PARTS = (*RUN_PARTS, EVALUATION_FILE, PLOTS)


class DensityRun:
    """One training run on one table.

    Everything a user can get wrong is checked in the constructor, which writes nothing. `train` trains, logs and
    checkpoints at every evaluation; Ctrl-C ends it after the current step with a checkpoint.
    """

    def __init__(self, config: DensityConfig, say: Callable[[str], None] = tqdm.write) -> None:
        self.config, self.say = config, say
        self.folder = Path(config.output_dir)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_output_dir(config.output_dir, config.resume, config.overwrite, find_density)
        self.table = config.data.load(config.seed)
        self.identity = identity(self.table)
        self.density = config.density()
        train, valid = (torch.from_numpy(part) for part in (self.table.train, self.table.valid))
        self.fitter = self.density.begin(train, valid, config.seed, self.table.columns)
        self._interruption = Interruption()
        if config.resume:
            self._resume()

    @property
    def done(self) -> bool:
        """Whether every sub-flow has been trained."""
        return self.fitter.done

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self._interruption.asked

    def train(self) -> Path:
        """Train to the end (or `stop_after`, or Ctrl-C); the newest checkpoint's folder."""
        prepare_folder(self.folder, self.config.to_dict(), self.config.overwrite, PARTS)
        inner = self.fitter.fitter
        log = RunLog(self.folder, inner.steps_done)
        last = inner.steps_done + (self.config.stop_after or inner.total_steps)
        bar = progress_bar("training", inner.total_steps, done=inner.steps_done, unit="step")
        try:
            with self._interruption.listening():
                while not (self.done or self.interrupted or inner.steps_done >= last):
                    _, seen = self.fitter.step()
                    bar.update()
                    if seen:
                        self._note(log, seen)
                        bar.set_description(self._told(seen), refresh=False)
                        bar.total = inner.total_steps  # early stopping takes steps off
        except LFMError:
            leave_nothing(self.folder, PARTS)
            raise
        finally:
            bar.close()
            log.close()
        return self._save()

    def _told(self, seen: Evaluation) -> str:
        n = f"sub-flow {seen.n} of {self.fitter.flow.n_subflows}" if seen.n else "all stretches together"
        nll = self.density.history_[-1]["valid_nll"] if self.density.history_ else None
        return f"{n}, loss {seen.loss:.4f}" + ("" if nll is None else f", held-out NLL {nll:.4f}")

    def _note(self, log: RunLog, seen: Evaluation) -> None:
        self.density.record(seen)
        entry = {name: value for name, value in self.density.history_[-1].items() if value is not None}
        log.write(self.fitter.fitter.steps_done, subflow=entry.pop("n"), subflow_step=entry.pop("step"), **entry)
        self._save()

    def _save(self) -> Path:
        state, step = self.fitter.state_dict(), self.fitter.fitter.steps_done
        facts = {
            "step": step,
            "trained": self.done,
            "table": {"name": self.table.name, "source": self.table.source, **self.identity},
            "config": self.config.to_dict(),
        }
        return save_checkpoint(self.folder, step, state, lambda folder: write_density(self.density, folder, **facts))

    def _resume(self) -> None:
        folder = find_density(self.folder)
        description = read_description(folder)
        check_unchanged(folder, self.config.differences(description["config"]))
        if description["table"]["sha256"] != self.identity["sha256"]:
            raise LFMError(
                f"data: {self.table.source} is not the table that {folder} was trained on; give that one, or start anew"
            )
        load_weights(self.density, folder)
        self.density.history_ = description["history"]
        self.fitter.load_state_dict(load_training_state(folder))
        inner = self.fitter.fitter
        self.say(f"resumed at step {inner.steps_done} of {inner.total_steps}")


def check_table_of(folder: Path, table: Table) -> None:
    """Raise LFMError where a table is not the one that a saved density was trained on: its parts would be mixed up."""
    trained = read_description(find_density(folder)).get("table")
    if trained is None:
        return
    if trained["columns"] != list(table.columns):
        raise LFMError(
            f"data: columns {', '.join(table.columns)} are not those of {folder}, {', '.join(trained['columns'])}; "
            "give the table it was trained on"
        )
    if trained["sha256"] != identity(table)["sha256"]:
        raise LFMError(
            f"data: {table.source} is not what {folder} was trained on ({trained['source']}), or is split by another "
            "seed, so rows of training would count as test; give the same, or score other rows in Python"
        )


def identity(table: Table) -> dict[str, Any]:
    """What a run learned from: a hash over the rows trained and watched on, and their numbers."""
    digest = hashlib.sha256()
    for part in (table.train, table.valid):
        digest.update(part.tobytes())
    rows = {name: len(getattr(table, name)) for name in ("train", "valid", "test")}
    return {"sha256": digest.hexdigest(), "rows": rows, "columns": list(table.columns)}
