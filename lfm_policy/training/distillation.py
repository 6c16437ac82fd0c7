"""A run of `lfm distill`: students of a trained policy by Algorithm A.1, as a policy of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from lfm_policy.evaluation.fields import UNESSENTIAL, differences
from lfm_policy.flow import Distiller, LFMError
from lfm_policy.flow.device import check_device
from lfm_policy.flow.distill import DistillReport
from lfm_policy.policy import DistilledPolicy, LFMPolicy, find_checkpoint, load_policy
from lfm_policy.policy.distilled import cut
from lfm_policy.policy.serialization import MODEL_FILE, POLICY_FILE, load_weights, read_description, save_policy
from lfm_policy.provenance import versions
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.config import DataConfig
from lfm_policy.training.folder import (
    Interruption,
    check_output_dir,
    check_unchanged,
    leave_nothing,
    plain,
    prepare_folder,
)
from lfm_policy.training.loop import train
from lfm_policy.training.setup import check_same, identify, read
from lfm_policy.training.students import StudentsConfig, told
from lfm_policy.training.windows import make_windows

# fields that may differ in a resumed run; the teacher and its data are held by their hashes
FREE = (*UNESSENTIAL, "teacher", "data.", "distillation.log_", "distillation.checkpoint_")


@dataclass(frozen=True)
class ConditionsConfig:
    """Where the observations come from that students are trained on.

    Args:
        path: the teacher's dataset, where it has been moved.
    """

    path: str | None = None


@dataclass(frozen=True)
class DistillConfig:
    """A distillation of a trained policy.

    Args:
        teacher: a run of `lfm train` with a flow, or one of its checkpoints.
        output_dir: folder of the run: config.yaml, metrics.jsonl, tensorboard/, checkpoints/.
        n_students: N', evaluations for a chunk; a divisor of the sub-flows. All, if not given.
        n_stretches: for a teacher of one network: stretches that its clock is cut into, by its flow.c and flow.rho.
        data: where the teacher's dataset is.
        distillation: how students are trained.
        seed: of data order and noise; the teacher's if not given.
        device: `cpu`, `cuda`, …
        threads: CPU threads; torch's own choice if not given. One is safest where other programs compute too.
        resume: continue the run in output_dir.
        overwrite: replace the run in output_dir.
        stop_after: stop after that many steps of this session, resumable.
    """

    teacher: str
    output_dir: str
    n_students: int | None = None
    n_stretches: int | None = None
    data: ConditionsConfig = field(default_factory=ConditionsConfig)
    distillation: StudentsConfig = field(default_factory=StudentsConfig)
    seed: int | None = None
    device: str = "cpu"
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("n_students", 1), ("n_stretches", 1), ("seed", 0), ("threads", 1), ("stop_after", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise LFMError(f"{name}: {value} must be {least} or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return plain(asdict(self))


class Teacher(NamedTuple):
    """A trained policy, and from its checkpoint in `folder`: its weights' hash, its run's config, seed and data."""

    policy: LFMPolicy
    folder: Path
    sha256: str
    config: dict[str, Any]
    seed: int
    data: DataConfig
    dataset: dict[str, Any]


class DistillRun:
    """Algorithm A.1 on a trained policy, given the observations that it was trained on.

    Everything a user can get wrong is checked in the constructor, which writes nothing. `run` trains, logs and
    checkpoints; Ctrl-C ends it after the current step with a checkpoint.
    """

    def __init__(self, config: DistillConfig, say: Callable[[str], None] = tqdm.write) -> None:
        self.config, self.say, self.run_dir = config, say, Path(config.output_dir)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_device(config.device)
        self.teacher = teacher = read_teacher(config.teacher, config.data.path)
        check_apart(teacher.folder, self.run_dir)
        check_output_dir(config.output_dir, config.resume, config.overwrite, find_checkpoint)
        policy = teacher.policy if config.n_stretches is None else cut(teacher.policy, config.n_stretches)
        policy = policy.to(config.device)
        self.seed = teacher.seed if config.seed is None else config.seed
        self.policy = DistilledPolicy.of(policy, config.n_students or policy.flow.n_subflows)
        self.dataset = identify(teacher.data, teacher.seed)
        check_same(self.dataset, teacher.data.path, teacher.folder, teacher.dataset, "give that one with --data.path")
        demonstrations, _ = read(teacher.data, teacher.seed, say)
        spec, options = policy.spec, config.distillation.options()
        shape = (spec.horizon, spec.action_space.dim)
        source = make_windows(demonstrations, self.policy)
        self.distiller = Distiller(policy.flow, self.policy.nfe, shape, options, source, seed=self.seed)
        self.policy.students = self.distiller.students
        self.pending: list[DistillReport] = []  # since the last log entry
        self._interruption = Interruption()
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

    def run(self) -> Path:
        """Distil to the end (or `stop_after`, or Ctrl-C); returns the newest checkpoint's folder."""
        config, every = self.config, self.config.distillation
        prepare_folder(self.run_dir, config.to_dict(), config.overwrite)
        try:
            return train(
                self.distiller,
                self.run_dir,
                self._interruption,
                self._save,
                self.pending,
                told,
                every.log_every,
                every.checkpoint_every,
                config.stop_after,
            )
        except LFMError:
            leave_nothing(self.run_dir)
            raise

    @property
    def settled(self) -> dict[str, Any]:
        """The config with what the teacher decides: which episodes were learned from and rolled out on, and seeds."""
        data = plain(asdict(self.teacher.data))
        rollout = self.teacher.config.get("rollout")
        own = {"n_students": self.policy.nfe, "seed": self.seed, "data": data, "rollout": rollout}
        return {**self.config.to_dict(), **own}

    def _save(self) -> Path:
        step = self.distiller.steps_done
        facts = {
            "step": step,
            "total_steps": self.distiller.total_steps,
            "teacher": {"sha256": self.teacher.sha256, "config": self.teacher.config},
            "dataset": self.dataset,
            "config": self.settled,
            "versions": versions(),
        }
        state = {"distiller": self.distiller.state_dict(), "pending": [tuple(report) for report in self.pending]}
        return save_checkpoint(self.run_dir, step, state, lambda folder: save_policy(self.policy, folder, **facts))

    def _resume(self) -> None:
        folder = find_checkpoint(self.run_dir)
        description = read_description(folder)
        if description["type"] != DistilledPolicy.kind:
            raise LFMError(f"{folder}: is of type {description['type']}, no distillation; choose another output_dir")
        check_unchanged(folder, differences(description["config"], self.settled, FREE))
        if description["teacher"]["sha256"] != self.teacher.sha256:
            raise LFMError(
                f"{folder}: {self.config.teacher} is not the teacher that these students began with; "
                "give that one, or start anew"
            )
        load_weights(self.policy, folder)
        state = load_training_state(folder)
        self.distiller.load_state_dict(state["distiller"])
        self.pending = [DistillReport(*report) for report in state["pending"]]
        self.say(f"resumed at step {self.distiller.steps_done} of {self.distiller.total_steps}")


def read_teacher(path: str, data_path: str | None = None) -> Teacher:
    """The trained flow in a run or checkpoint, its dataset at `data_path` if given; LFMError for other policies."""
    folder = find_checkpoint(path)
    policy, description = load_policy(folder), read_description(folder)
    if not isinstance(policy, LFMPolicy):
        raise LFMError(f"teacher: {folder} is of type {policy.kind}, no flow; give a run of `lfm train` with a flow")
    try:
        config, dataset = description["config"], description["dataset"]
        seed, data = config["seed"], DataConfig(**{**config["data"], "obs_keys": tuple(config["data"]["obs_keys"])})
    except (KeyError, TypeError) as error:
        raise LFMError(
            f"{folder / POLICY_FILE}: does not tell what it was trained on ({error}); give a run of `lfm train`"
        ) from error
    data = replace(data, path=data_path or data.path)
    if not Path(data.path).is_file():
        raise LFMError(f"{data.path}: is no file; give the teacher's dataset ({dataset['file']}) with --data.path")
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    return Teacher(policy, folder, digest, config, seed, data, dataset)


def check_apart(teacher: Path, run: Path) -> None:
    """Raise LFMError where the run would stand in its teacher's place."""
    if teacher.resolve().is_relative_to(run.resolve()):
        raise LFMError(f"output_dir: {run} holds the teacher {teacher}; choose another")
