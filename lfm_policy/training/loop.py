"""A resumable training loop over the steps of a `Fitter` or a `Distiller`, with log, checkpoints and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

from lfm_policy.progress import progress_bar
from lfm_policy.training.folder import SIGNALS, Interruption
from lfm_policy.training.logging import RunLog


class StepStopped(Exception):
    """Somebody asked to stop in the middle of a step that knows how to go on from there."""


class Trainer(Protocol):
    """What is stepped: a `Fitter` or a `Distiller`."""

    @property
    def done(self) -> bool: ...

    @property
    def steps_done(self) -> int: ...

    @property
    def total_steps(self) -> int: ...

    def step(self) -> Any: ...


def train(
    trainer: Trainer,
    folder: Path,
    interruption: Interruption,
    save: Callable[[], Path],
    pending: list[Any],
    tell: Callable[[list[Any]], tuple[str, dict[str, Any]]],
    log_every: int,
    save_every: int,
    stop_after: int | None = None,
    after_step: Callable[[Any, RunLog], bool] = lambda report, log: False,
    part_ends: Callable[[], bool] = lambda: False,
    signals: Collection[int] = SIGNALS,
    progress: bool = True,
) -> Path:
    """Step to the end, to `stop_after` steps or to a signal; the newest checkpoint's folder.

    Args:
        trainer: whose steps are taken.
        folder: of the run.
        interruption: who listens to Ctrl-C.
        save: writes a checkpoint.
        pending: reports since the last entry of the log; the caller keeps them, so that a checkpoint can.
        tell: makes of the reports since the last entry a line for the bar and an entry for the log.
        log_every: steps between entries.
        save_every: steps between checkpoints.
        stop_after: steps of this session.
        after_step: is told of each step, may write to the log, and says whether to save now.
        part_ends: whether a step was the last of its part, which ends an entry of the log too.
        signals: that end it after the current step.
        progress: whether there is a bar.
    """
    log = RunLog(folder, trainer.steps_done)
    last = trainer.steps_done + (stop_after or trainer.total_steps)
    bar = progress_bar("training", trainer.total_steps, progress, done=trainer.steps_done, unit="step")
    try:
        with interruption.listening(signals):
            while not (trainer.done or interruption.asked or trainer.steps_done >= last):
                report = trainer.step()
                pending.append(report)
                bar.update()
                ends = part_ends() or trainer.done
                if trainer.steps_done % log_every == 0 or ends:
                    line, entry = tell(pending)
                    log.write(trainer.steps_done, **entry)
                    bar.set_description(line, refresh=ends)
                    pending.clear()
                if after_step(report, log) or trainer.steps_done % save_every == 0:
                    save()
    except StepStopped:
        pass
    finally:
        bar.close()
        log.close()
    return save()
