"""A training run: data in, checkpoints out, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lfm_policy.flow import Fitter, StepReport, named_generator
from lfm_policy.flow.device import check_device
from lfm_policy.policy import find_checkpoint
from lfm_policy.policy.network import check_horizon
from lfm_policy.policy.serialization import load_weights, read_description, save_policy
from lfm_policy.progress import progress_bar
from lfm_policy.provenance import versions
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.config import TrainConfig
from lfm_policy.training.folder import SIGNALS, Interruption, check_output_dir, check_unchanged, prepare_folder
from lfm_policy.training.logging import RunLog
from lfm_policy.training.setup import build_policy, check_same, identify, read
from lfm_policy.training.windows import make_windows, split_observation

SAMPLED_WINDOWS = 256  # held-out windows whose sampled chunks are compared with the demonstrated ones


class Trainer:
    """One run of Algorithm 1 on demonstrations.

    Everything a user can get wrong is checked in the constructor, which writes nothing. `run` trains,
    logs and checkpoints; each of `signals` ends it after the current step with a checkpoint.
    `on_checkpoint(folder, step, done)` is called after each checkpoint of a complete policy and may return values
    to log.
    """

    def __init__(
        self,
        config: TrainConfig,
        say: Callable[[str], None] = tqdm.write,
        on_checkpoint: Callable[[Path, int, bool], dict[str, Any]] | None = None,
        progress: bool = True,
        signals: Collection[int] = SIGNALS,
    ) -> None:
        self.config, self.say, self.on_checkpoint = config, say, on_checkpoint
        self.progress, self.signals = progress, signals
        self.run_dir = Path(config.output_dir)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_device(config.device)
        check_output_dir(config.output_dir, config.resume, config.overwrite, find_checkpoint)
        check_horizon(config.policy.horizon, config.network)
        self.dataset = identify(config.data)
        train, valid = read(config.data, config.seed, say)
        self.policy = build_policy(config, train).to(config.device)
        self.train = make_windows(train, self.policy)
        self.valid = make_windows(valid, self.policy) if valid else None
        options = config.fit_options(len(self.train))
        self.fitter = Fitter(self.policy.flow, self.train, options, config.seed, self.valid)
        self.losses: list[float] = []  # since the last log entry
        self._interruption = Interruption()
        self._logged = (0, time.perf_counter())  # step and moment of the last log entry
        if config.resume:
            self._resume()

    def run(self) -> Path:
        """Train to the end (or `stop_after`, or Ctrl-C); returns the newest checkpoint's folder."""
        prepare_folder(self.run_dir, self.config.to_dict(), self.config.overwrite)
        log = RunLog(self.run_dir, self.fitter.steps_done)
        try:
            with self._interruption.listening(self.signals):
                return self._loop(log)
        finally:
            log.close()

    def _loop(self, log: RunLog) -> Path:
        fitter, every = self.fitter, self.config.training
        last = fitter.steps_done + (self.config.stop_after or fitter.total_steps)
        bar = progress_bar("training", fitter.total_steps, self.progress, done=fitter.steps_done, unit="step")
        self._logged = (fitter.steps_done, time.perf_counter())
        while not (fitter.done or self.interrupted or fitter.steps_done >= last):
            if fitter.stage_done and self.config.flow.marginals == "pushed" and fitter.current.n:
                bar.set_description(f"pushing the data through sub-flow {fitter.current.n}")
            report = fitter.step()
            self.losses.append(report.loss)
            bar.update()
            ends = fitter.stage_done
            if report.step % every.log_every == 0 or ends:
                loss = self._log_step(log, report)
                bar.set_description(f"{self._stage_name()}, loss {loss:.4f}", refresh=False)
            if report.step % every.valid_every == 0 or ends:
                self._evaluate(log, ends)
            if report.step % every.checkpoint_every == 0 and not fitter.done:
                self._save(log)
        bar.close()
        return self._save(log)

    def _log_step(self, log: RunLog, report: StepReport) -> float:
        """Log the mean loss since the last entry; the mean."""
        step, now = self.fitter.steps_done, time.perf_counter()
        loss = sum(self.losses) / len(self.losses)
        log.write(
            step,
            subflow=report.n,
            subflow_step=report.step,
            loss=loss,
            learning_rate=report.learning_rate,
            steps_per_second=(step - self._logged[0]) / (now - self._logged[1]),
        )
        self.losses, self._logged = [], (step, now)
        return loss

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

    def _save(self, log: RunLog) -> Path:
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
        state = {"fitter": fitter.state_dict(), "losses": self.losses}
        step = fitter.steps_done
        folder = save_checkpoint(
            self.run_dir, step, state, lambda folder: save_policy(self.policy, folder, step=step, **facts)
        )
        if self._complete and self.on_checkpoint:
            values = self.on_checkpoint(folder, fitter.steps_done, fitter.done)
            if values:
                log.write(fitter.steps_done, **values)
        return folder

    def _resume(self) -> None:
        folder = find_checkpoint(self.run_dir)
        description = read_description(folder)
        check_unchanged(folder, self.config.differences(description["config"]))
        path = self.config.data.path
        check_same(self.dataset, path, folder, description["dataset"], "give that one, or start anew")
        load_weights(self.policy, folder)
        state = load_training_state(folder)
        self.fitter.load_state_dict(state["fitter"])
        self.losses = state["losses"]
        self.say(f"resumed at step {self.fitter.steps_done} of {self.fitter.total_steps}")
