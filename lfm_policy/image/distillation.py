"""A run of `lfm image distill`: students of a trained pipeline by Algorithm A.1, as a pipeline of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lfm_policy.data.saved import find_folder, load_modules, read_description
from lfm_policy.evaluation.fields import differences
from lfm_policy.flow import DistilledFlow, Distiller, LFMError, LocalFlow, Schedule
from lfm_policy.flow.device import check_device
from lfm_policy.flow.distill import DistillReport, untrained_students
from lfm_policy.flow.random import named_seed
from lfm_policy.image.config import DistillationConfig, ImageConfig
from lfm_policy.image.generation import PIPELINE, load_pipeline
from lfm_policy.image.model import LocalFlowModel, UNet2dConfig, new_model
from lfm_policy.image.pipeline import WEIGHTS, LFMPipeline, replace_pipeline
from lfm_policy.image.pushed import fingerprint
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.folder import (
    RUN_PARTS,
    Interruption,
    check_output_dir,
    check_unchanged,
    leave_nothing,
    plain,
    prepare_folder,
)
from lfm_policy.training.loop import train
from lfm_policy.training.students import told

FORMAT, TYPE, FILE = 1, "image_students", "students.json"


class DistillRun:
    """Students of the pipeline in `output_dir`, trained into `output_dir/distilled_<N'>`; resumable at any step."""

    def __init__(self, config: ImageConfig, say: Callable[[str], None] = tqdm.write) -> None:
        self.config, self.say, settings = config, say, config.distillation
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_device(config.device)
        teacher = load_pipeline(config.output_dir, config.device).flow
        flow = cut(teacher, config)
        self.teacher = fingerprint(teacher)
        n_students = settings.n_students or flow.n_subflows
        self.folder = Path(config.output_dir) / f"distilled_{n_students}"
        check_output_dir(str(self.folder), config.resume, config.overwrite, find_run)
        self.model = new_students(teacher, flow, n_students, settings, config.seed)
        self.model.flow.to(torch.device(config.device))
        assert isinstance(self.model.flow, DistilledFlow)
        self.distiller = Distiller(
            flow, n_students, teacher.shape, settings.options(), None, list(self.model.flow.fields), config.seed
        )
        self.model.flow = self.distiller.students
        self._interruption = Interruption()
        self.pending: list[DistillReport] = []
        if config.resume:
            self._resume()

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.distiller.done

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self._interruption.asked

    def train(self) -> Path:
        """Distil to the end (or `stop_after`, or Ctrl-C); the students' pipeline, or the newest checkpoint's folder."""
        config, every = self.config, self.config.distillation
        prepare_folder(self.folder, config.to_dict(), config.overwrite, (*RUN_PARTS, PIPELINE))
        try:
            checkpoint = train(
                self.distiller,
                self.folder,
                self._interruption,
                self.save,
                self.pending,
                told,
                every.log_every,
                every.checkpoint_every,
                config.stop_after,
            )
        except LFMError:
            leave_nothing(self.folder)
            raise
        if not self.done:
            return checkpoint
        return replace_pipeline(LFMPipeline(self.model), self.folder / PIPELINE)

    def save(self) -> Path:
        """A checkpoint: the students' pipeline with students.json and the training state."""
        step = self.distiller.steps_done
        state = {"distiller": self.distiller.state_dict(), "pending": [tuple(report) for report in self.pending]}
        description = {"format": FORMAT, "type": TYPE, "step": step, "teacher": self.teacher, **self._settings()}

        def write(folder: Path) -> None:
            LFMPipeline(self.model).save_pretrained(folder)
            (folder / FILE).write_text(json.dumps(description, indent=2) + "\n")

        return save_checkpoint(self.folder, step, state, write)

    def _settings(self) -> dict[str, Any]:
        gammas = list(self.model.flow.schedule.gammas)  # of the stretches, which flow.c and flow.rho may cut
        return {"distillation": plain(asdict(self.config.distillation)), "seed": self.config.seed, "gammas": gammas}

    def _resume(self) -> None:
        folder = find_run(self.folder)
        description = read_description(folder / FILE, TYPE, FORMAT, "students")
        old = {name: description.get(name) for name in self._settings()}
        free = ("distillation.log_", "distillation.checkpoint_")
        check_unchanged(folder, differences(old, self._settings(), free))
        if description["teacher"] != self.teacher:
            raise LFMError(
                f"{folder}: {self.config.output_dir} is not the teacher that these students began with; start anew"
            )
        load_modules(folder / WEIGHTS, {"": self.model})
        state = load_training_state(folder)
        self.distiller.load_state_dict(state["distiller"])
        self.pending = [DistillReport(*report) for report in state["pending"]]
        self.say(f"resumed at step {self.distiller.steps_done} of {self.distiller.total_steps}")


def find_run(path: Path) -> Path:
    """The newest checkpoint in the folder of a distillation."""
    return find_folder(path, FILE)


def cut(teacher: LocalFlowModel, config: ImageConfig) -> LocalFlow:
    """The teacher's chain; one of a single network on as many stretches of its clock as the config asks for.

    Its global ODE is the same however the clock is cut, so the stretches' pulls are parts of the teacher's own.
    """
    flow, count = teacher.flow, config.distillation.n_stretches
    if not isinstance(flow, LocalFlow):
        raise LFMError(f"output_dir: {config.output_dir} holds students already; give a run of `lfm image train`")
    if count is None:
        return flow
    if len(flow.fields) > 1:
        raise LFMError(
            f"distillation.n_stretches: {count} is for a teacher of one network, this one has {len(flow.fields)}; "
            "leave it out"
        )
    return LocalFlow(list(flow.fields), Schedule.geometric(count, config.flow.c, config.flow.rho))


def new_students(
    teacher: LocalFlowModel, flow: LocalFlow, n_students: int, settings: DistillationConfig, seed: int
) -> LocalFlowModel:
    """Students of a chain: copies of its networks where widths are the same and copies are wanted, else new."""
    network = UNet2dConfig(**{name: _hashable(value) for name, value in teacher.config["network"].items()})
    copies = untrained_students(flow, n_students)
    channels = settings.channels or widened(network, flow.n_subflows // n_students if len(flow.fields) > 1 else 1)
    fresh = named_seed(seed, "students")
    model = new_model(
        teacher.shape, replace(network, channels=channels), flow.schedule, len(copies.fields) == 1, n_students, fresh
    )
    if settings.from_teacher and channels == network.channels:
        model.flow.load_state_dict(copies.state_dict())
    return model


def widened(network: UNet2dConfig, k: int) -> tuple[int, ...]:
    """Widths √k times as large, to the nearest that groups and heads divide: about k times the weights."""
    step = math.lcm(network.n_groups, network.head_dim if network.attention else 1)
    return tuple(c if k == 1 else max(step, round(c * math.sqrt(k) / step) * step) for c in network.channels)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
