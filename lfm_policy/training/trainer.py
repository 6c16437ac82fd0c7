"""A training run: data in, checkpoints out, resumable at any step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lfm_policy.data.normalizer import CONSTANT_RANGE
from lfm_policy.flow import Fitter, LFMError, StepReport, named_generator
from lfm_policy.flow.device import check_device
from lfm_policy.policy import find_checkpoint
from lfm_policy.policy.network import check_horizon
from lfm_policy.policy.serialization import load_weights, read_description, save_policy
from lfm_policy.provenance import versions
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.config import TrainConfig
from lfm_policy.training.folder import (
    SIGNALS,
    Interruption,
    check_output_dir,
    check_unchanged,
    leave_nothing,
    prepare_folder,
)
from lfm_policy.training.logging import RunLog, entries
from lfm_policy.training.loop import train
from lfm_policy.training.setup import build_policy, check_same, identify, read
from lfm_policy.training.windows import make_windows, split_observation

SAMPLED_WINDOWS = 256  # held-out windows whose sampled chunks are compared with the demonstrated ones


class Trainer:
    """One run of Algorithm 1 on demonstrations.

    Everything a user can get wrong is checked in the constructor, which writes nothing. `run` trains,
    logs and checkpoints; each of `signals` ends it after the current step with a checkpoint.
    `roll_out(checkpoint, step)` gives values to log, `success_rate` among them, every `rollout.every` steps of the last
    sub-flow and once after it, be that when the trained run is resumed.
    """

    def __init__(
        self,
        config: TrainConfig,
        say: Callable[[str], None] = tqdm.write,
        roll_out: Callable[[Path, int], dict[str, Any]] | None = None,
        progress: bool = True,
        signals: Collection[int] = SIGNALS,
    ) -> None:
        self.config, self.say, self.roll_out = config, say, roll_out
        self.progress, self.signals = progress, signals
        self.run_dir = Path(config.output_dir)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_device(config.device)
        check_output_dir(config.output_dir, config.resume, config.overwrite, find_checkpoint)
        check_horizon(config.policy.horizon, config.network)
        self.dataset = identify(config.data, config.seed)
        train, valid = read(config.data, config.seed, say)
        self.policy = build_policy(config, train).to(config.device)
        if still := [i for i, varies in enumerate(self.policy.action_normalizer.varying.tolist()) if not varies]:
            say(f"actions {', '.join(map(str, still))} vary by less than {CONSTANT_RANGE:g}: learned as constant")
        self.train = make_windows(train, self.policy)
        self.valid = make_windows(valid, self.policy) if valid else None
        options = config.fit_options(len(self.train))
        self.fitter = Fitter(self.policy.flow, self.train, options, config.seed, self.valid)
        self.pending: list[StepReport] = []  # since the last log entry
        self._interruption = Interruption()
        self._logged = (0, time.perf_counter())  # step and moment of the last log entry
        if config.resume:
            self._resume()

    def run(self) -> Path:
        """Train to the end (or `stop_after`, or Ctrl-C); returns the newest checkpoint's folder."""
        config, every = self.config, self.config.training
        prepare_folder(self.run_dir, config.to_dict(), config.overwrite)
        self._logged = (self.fitter.steps_done, time.perf_counter())
        try:
            folder = train(
                self.fitter,
                self.run_dir,
                self._interruption,
                self._save,
                self.pending,
                self._tell,
                every.log_every,
                every.checkpoint_every,
                config.stop_after,
                self._after_step,
                lambda: self.fitter.stage_done,
                self.signals,
                self.progress,
            )
        except LFMError:
            leave_nothing(self.run_dir)
            raise
        self._roll_out_trained(folder)
        return folder

    def _tell(self, reports: list[StepReport]) -> tuple[str, dict[str, Any]]:
        """A line and an entry on the mean loss since the last entry."""
        report, step, now = reports[-1], self.fitter.steps_done, time.perf_counter()
        loss = sum(entry.loss for entry in reports) / len(reports)
        entry = {
            "subflow": report.n,
            "subflow_step": report.step,
            "loss": loss,
            "learning_rate": report.learning_rate,
            "steps_per_second": (step - self._logged[0]) / (now - self._logged[1]),
        }
        self._logged = (step, now)
        pushes = self.fitter.stage_done and report.n and not self.fitter.done
        pushing = "; pushing the data through it" if pushes and self.config.flow.marginals == "pushed" else ""
        return f"{self._stage_name()}, loss {loss:.4f}{pushing}", entry

    def _after_step(self, report: StepReport, log: RunLog) -> bool:
        """Held-out losses and rollouts where it is time; rollouts are of a checkpoint, which is kept."""
        ends, steps = self.fitter.stage_done, self.fitter.steps_done
        if report.step % self.config.training.valid_every == 0 or ends:
            self._evaluate(log, ends)
        due = steps % self.config.rollout.every == 0 and not self.fitter.done
        if self.roll_out is not None and self._complete and due and not self.interrupted:
            log.write(steps, **self.roll_out(self._save(), steps))
        return False

    def _roll_out_trained(self, folder: Path) -> None:
        """Rollouts of the trained policy, unless an earlier session of this run has made them."""
        step = self.fitter.steps_done
        if self.roll_out is None or not self.fitter.done or self.interrupted:
            return
        if not any(entry["step"] == step and "success_rate" in entry for entry in entries(self.run_dir)):
            with contextlib.closing(RunLog(self.run_dir, step)) as log:
                log.write(step, **self.roll_out(folder, step))

    def _evaluate(self, log: RunLog, ends: bool) -> None:
        """Held-out loss of the current sub-flow, and the error of sampled chunks once all are trained."""
        loss = self.fitter.held_out_loss()
        if loss is None:
            return
        n = self.fitter.current.n
        values: dict[str, Any] = {"subflow": n, "valid_loss": loss}
        if self._complete:
            values["sample_mse"] = self._sample_mse()
        log.write(self.fitter.steps_done, **values)
        if ends:
            text = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "subflow")
            self.say(f"{self._stage_name()} trained: held-out {text}")

    def _sample_mse(self) -> float:
        """Mean squared error, in normalised units, of chunks sampled for held-out observations."""
        assert self.valid is not None
        count = min(SAMPLED_WINDOWS, len(self.valid))
        index = torch.linspace(0, len(self.valid) - 1, count).long()
        observations, actions = self.valid.gather(index)
        generator = named_generator(self.config.seed, "sample_mse", device=self.policy.device)
        predicted = self.policy.predict_action(split_observation(observations, self.policy), generator)
        normalize = self.policy.action_normalizer.normalize
        return (normalize(predicted) - normalize(actions.to(predicted.device))).pow(2).mean().item()

    @property
    def _epochs(self) -> float:
        """Passes over the training windows that each sub-flow's network has made, on average over sub-flows."""
        samples = self.fitter.steps_done * self.fitter.options.batch_size
        return samples / len(self.train) / self.policy.flow.n_subflows

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self._interruption.asked

    @property
    def _complete(self) -> bool:
        """Whether every sub-flow has been trained, or is the last one in training."""
        return self.fitter.stage == len(self.fitter.stages) - 1

    def _stage_name(self) -> str:
        n, total = self.fitter.current.n, self.policy.flow.n_subflows
        return f"sub-flow {n} of {total}" if n else "all stretches together"

    def _save(self) -> Path:
        fitter = self.fitter
        trained = self.policy.flow.n_subflows if self._complete else max(fitter.current.n - 1, 0)
        facts = {
            "trained_subflows": trained,
            "total_steps": fitter.total_steps,
            "epochs": self._epochs,
            "dataset": self.dataset,
            "config": self.config.to_dict(),
            "versions": versions(),
        }
        state = {"fitter": fitter.state_dict(), "pending": [tuple(report) for report in self.pending]}
        step = fitter.steps_done
        return save_checkpoint(
            self.run_dir, step, state, lambda folder: save_policy(self.policy, folder, step=step, **facts)
        )

    def _resume(self) -> None:
        folder = find_checkpoint(self.run_dir)
        description = read_description(folder)
        check_unchanged(folder, self.config.differences(description["config"]))
        path = self.config.data.path
        check_same(self.dataset, path, folder, description["dataset"], "give that one, or start anew")
        load_weights(self.policy, folder)
        state = load_training_state(folder)
        self.fitter.load_state_dict(state["fitter"])
        self.pending = [StepReport(*report) for report in state.get("pending", [])]  # none in earlier versions
        self.say(f"resumed at step {self.fitter.steps_done} of {self.fitter.total_steps}")
