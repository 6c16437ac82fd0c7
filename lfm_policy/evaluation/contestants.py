"""The policies of a comparison: named on the command line, found, loaded, and refused where they do not compare."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lfm_policy.data.action_space import major_minor
from lfm_policy.data.saved import CHECKPOINTS
from lfm_policy.evaluation.comparison import temperature_point
from lfm_policy.evaluation.environment import EnvSpec, check_fit, horizon
from lfm_policy.evaluation.fields import UNESSENTIAL, differences, flat
from lfm_policy.evaluation.report import common, seen_seeds, unfinished
from lfm_policy.evaluation.rollout import CheckpointSource, RolloutJob, rollout_job
from lfm_policy.flow.errors import LFMError
from lfm_policy.policy import PolicySpec, find_checkpoint
from lfm_policy.policy.serialization import MODEL_FILE, read_description
from lfm_policy.provenance import INFERENCE, SIMULATION, versions_of, without_cwd

# fields of a training config in which training runs of one method may differ: theirs, and their machine's
OWN = (*UNESSENTIAL, "seed", "teacher", "data.check_version", "distillation.log_")
OWN += ("distillation.checkpoint_",)
# fields of an environment that say by which actions it is commanded, none of which changes the task
ACTIONS = tuple(f"{part}.{name}" for part in ("env_kwargs", "action_space") for name in ("representation", "rotation"))
ACTIONS += ("action_space.dim",)
NAME = re.compile(r"[\w.+-]+(@[\w.+-]+)?")


@dataclass(frozen=True)
class Entry:
    """`label=path,path` of a command line: several checkpoints are training runs of one method, or candidates."""

    label: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Contestant:
    """One checkpoint with one sampler, loaded once to see that it can be rolled out."""

    label: str
    folder: Path
    description: Mapping[str, Any]
    spec: PolicySpec
    sampler: Any
    nfe: int
    multiply_adds: int
    job: RolloutJob

    @property
    def config(self) -> Mapping[str, Any]:
        """The training run's config, empty where the checkpoint tells none."""
        return self.description.get("config") or {}

    @property
    def training_seed(self) -> int | None:
        """Seed of the training run."""
        return self.config.get("seed")

    @property
    def step(self) -> float | None:
        """Optimiser steps per sub-flow."""
        step, flow = self.description.get("step"), self.config.get("flow") or {}
        return None if step is None else step / flow.get("n_subflows", 1)

    @property
    def epochs(self) -> float | None:
        """The same in passes over the training windows, where the checkpoint tells."""
        return self.description.get("epochs")

    def identity(self, max_steps: int | None) -> dict[str, Any]:
        """What decides its rows: weights and settings by hash, sampler, environment, versions."""
        built = {"spec": self.description["spec"], "model": self.description["model"]}
        return {
            "checkpoint": {
                "model_sha256": _sha256((self.folder / MODEL_FILE).read_bytes()),
                "policy_sha256": _sha256(json.dumps(built, sort_keys=True).encode()),
                "type": self.description["type"],
                "step": self.description.get("step"),
                "sampler": self.sampler,
            },
            "environment": {**asdict(self.job.env), "max_steps": max_steps},
            "versions": versions_of((*SIMULATION, *INFERENCE)),
        }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parse_entry(text: str) -> Entry:
    """An entry from `[name[@point]=]PATH[,PATH...]`; without a name, that of the run's folder."""
    name, equals, paths = text.partition("=")
    if not equals or "/" in name:
        name, paths = "", text
    folders = tuple(find_policy(path) for path in paths.split(",") if path)
    if not folders:
        raise LFMError(f"{text}: names no checkpoint; give name=PATH")
    if len(set(folders)) < len(folders):
        raise LFMError(f"{text}: names one checkpoint twice; give each once")
    label = name or _run_name(folders[0])
    if not NAME.fullmatch(label):
        raise LFMError(f"{text}: '{label}' is no name; use letters, digits and . _ + -, as name or name@point")
    return Entry(label, folders)


def parse_entries(texts: Iterable[str]) -> list[Entry]:
    """Entries of different labels; LFMError where two have the same."""
    entries: dict[str, Entry] = {}
    for text in texts:
        entry = parse_entry(text)
        if entry.label in entries:
            raise LFMError(f"{text}: {entry.label} is there already; give its paths with commas, or another name")
        entries[entry.label] = entry
    return list(entries.values())


def find_policy(path: str) -> Path:
    """The checkpoint's folder that `path` is, that is newest in a run's folder, or in the run of a training YAML."""
    if Path(path).suffix not in (".yaml", ".yml"):
        return find_checkpoint(path)
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LFMError(f"{path}: cannot be read ({' '.join(str(error).split())}); give a training config") from error
    output_dir = config.get("output_dir") if isinstance(config, dict) else None
    if not output_dir:
        raise LFMError(
            f"{path}: names no output_dir; train with `lfm train --config {path} --output_dir DIR` and give DIR"
        )
    try:
        return find_checkpoint(output_dir)
    except LFMError as error:
        raise LFMError(
            f"{path}: its output_dir {output_dir} holds no checkpoint; train with `lfm train --config {path}`"
        ) from error


def _run_name(folder: Path) -> str:
    """`lfm` of runs/lfm/checkpoints/step_40, and of a checkpoint's own folder runs/lfm."""
    run = folder.resolve()
    return run.parent.parent.name if run.parent.name == CHECKPOINTS else run.name


def load(
    label: str,
    folder: Path,
    env: EnvSpec,
    max_steps: int | None = None,
    solver_steps: int | None = None,
    solver: str | None = None,
    temperature: float | None = None,
) -> Contestant:
    """A checkpoint, with another number of solver steps and at another temperature, each only if its sampler has it."""
    source = CheckpointSource(folder.resolve())  # workers of other machines start elsewhere
    policy: Any = source()
    points = []
    if solver_steps is not None and "steps" in (policy.sampler or {}):
        source = replace(source, solver=solver, solver_steps=solver_steps)
        points.append(str(solver_steps))
    if temperature is not None and "temperature" in (policy.sampler or {}):
        source = replace(source, temperature=temperature)
        points.append(temperature_point(temperature))
    if points:
        policy = source()
        label = f"{label}{'.' if '@' in label else '@'}{'.'.join(points)}"
    job = rollout_job(policy, str(folder), env, max_steps, source)
    description = read_description(folder)
    return Contestant(label, folder, description, policy.spec, policy.sampler, policy.nfe, policy.multiply_adds, job)


def check_runs(contestants: Sequence[Contestant]) -> None:
    """LFMError where checkpoints of one label are not training runs of one method, naming what differs."""
    first = contestants[0]
    for other in contestants[1:]:
        folders = without_cwd(str(first.folder)), without_cwd(str(other.folder))
        told = differences(_trained(first), _trained(other), words=folders)
        if told:
            raise LFMError(
                f"{first.label}: its paths are not training runs of one method ({'; '.join(told[:4])}); "
                "give each a name of its own"
            )
    seen: dict[str, Path] = {}
    for run in contestants:
        there = seen.setdefault(_sha256((run.folder / MODEL_FILE).read_bytes()), run.folder)
        if there != run.folder:
            raise LFMError(
                f"{first.label}: {without_cwd(str(run.folder))} has the weights of {without_cwd(str(there))}; "
                "give each training run once"
            )


def _trained(contestant: Contestant) -> dict[str, Any]:
    """What training runs of one method share; steps may follow from how much data a seed holds out."""
    told = contestant.description
    step, total = told.get("step"), told.get("total_steps")
    teacher = _essential((told.get("teacher") or {}).get("config") or {})
    return {
        **_essential(contestant.config),
        **{f"teacher.{name}": value for name, value in teacher.items()},
        "type": told["type"],
        "model": told["model"],
        "step": step / total if step and total else step,
        "sampler": contestant.sampler,
    }


def _essential(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flat(config).items() if not name.startswith(OWN)}


def unfinished_notes(contestants: Sequence[Contestant]) -> list[str]:
    """Which checkpoints are in the middle of their training: their methods would come out otherwise at its end."""
    told = {run.folder: f"{run.label} {at}" for run in reversed(contestants) if (at := unfinished(run.description))}
    return [f"In the middle of their training: {', '.join(reversed(told.values()))}"] if told else []


def check_data(contestants: Sequence[Contestant], allow: bool) -> list[str]:
    """How the data differ that they were trained on; LFMError unless that is allowed."""
    first = contestants[0]
    found = [told for other in contestants[1:] for told in _data_differences(first, other)]
    found = list(dict.fromkeys(found))
    if found and not allow:
        raise LFMError(
            f"trained on different data ({'; '.join(found[:4])}); train on the same, or add --allow_different_data true"
        )
    return found


def _data_differences(first: Contestant, other: Contestant) -> list[str]:
    was, now = _data(first), _data(other)
    if _actions(first) != _actions(other):  # hashes are of the actions that were read
        was["sha256"] = now["sha256"] = None
    elif was["sha256"] == now["sha256"]:  # a file may have been renamed
        was["file"] = now["file"]
    return differences(was, now, words=(first.label, other.label))


def _data(contestant: Contestant) -> dict[str, Any]:
    dataset, told = contestant.description.get("dataset") or {}, contestant.config.get("data") or {}
    # which of its episodes were trained on
    split = {key: told.get(key) for key in ("filter_key", "valid_fraction")} if told else {}
    return {key: dataset.get(key) for key in ("file", "sha256", "n_episodes", "n_frames")} | split


def check_environment(contestants: Sequence[Contestant], allow_actions: bool = False) -> int | None:
    """The step limit of the environment they share; LFMError where it is not one, or they do not fit it.

    With `allow_actions` they may command it by different actions: displacements or goals, in whichever rotations.
    """
    first, free = contestants[0], ACTIONS if allow_actions else ()
    for other in contestants[1:]:
        told = differences(_environment(first), _environment(other), free, (first.label, other.label))
        if told:
            remedy = "compare policies of one environment"
            if all(difference.startswith(ACTIONS) for difference in told):
                remedy += ", or add --allow_different_actions true"
            raise LFMError(
                f"{first.label} and {other.label} act in different environments ({'; '.join(told[:4])}); {remedy}"
            )
    alike: dict[tuple[str, ...], list[Contestant]] = {}
    for contestant in contestants:
        alike.setdefault(_actions(contestant), []).append(contestant)
    limits = [_checked_limit(group) for group in alike.values()]
    return first.job.max_steps or limits[0]


def _checked_limit(contestants: Sequence[Contestant]) -> int | None:
    """The environment's own limit; LFMError where one does not fit it."""
    env = contestants[0].job.make_env()
    try:
        for contestant in contestants:
            check_fit(contestant.spec, env, str(contestant.folder))
        return horizon(env)
    finally:
        env.close()


def action_notes(contestants: Sequence[Contestant]) -> list[str]:
    """Who commands by which actions, where not all do by the same."""
    found: dict[str, dict[str, None]] = {}
    for contestant in contestants:
        found.setdefault(" and ".join(_actions(contestant)), {})[contestant.label] = None
    told = (f"{', '.join(labels)} by {actions}" for actions, labels in found.items())
    return [f"Different actions: {'; '.join(told)}"] if len(found) > 1 else []


def _actions(contestant: Contestant) -> tuple[str, ...]:
    space = contestant.spec.action_space
    return (space.representation, space.rotation)


def _environment(contestant: Contestant) -> dict[str, Any]:
    spec = contestant.spec
    version = major_minor(spec.env_version) if spec.env_version else ""
    return {**asdict(contestant.job.env), "version": version, "action_space": spec.action_space.to_dict()}


def check_seeds(contestants: Sequence[Contestant], reported: range, selected: range) -> None:
    """LFMError where a checkpoint was trained on the seeds that are reported, or could have been chosen by them."""
    _check_apart(reported, selected, "--select_seed: selection on", "choose other --select_seed")
    for contestant in contestants:
        rollout = contestant.config.get("rollout") or {}
        seen = range(rollout.get("seed", 0), rollout.get("seed", 0) + rollout.get("n_rollouts", 0))
        where = f"{without_cwd(str(contestant.folder))}: its training rolled out on"
        _check_apart(reported, seen, where, "choose another --seed")
        for first, last in seen_seeds(contestant.description, contestant.job.env.env_id, reported):
            where = f"{without_cwd(str(contestant.folder))}: its demonstrations were recorded on"
            _check_apart(reported, range(first, last + 1), where, "choose another --seed")


def _check_apart(reported: range, others: range, where: str, remedy: str) -> None:
    if both := common(reported, others):
        raise LFMError(f"{where} seeds {both[0]} to {both[-1]}, which are reported; {remedy}")
