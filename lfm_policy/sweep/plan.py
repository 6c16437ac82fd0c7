"""What a sweep consists of: its configuration, and from it every training run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lfm_policy.evaluation.comparison import temperature_point
from lfm_policy.evaluation.executor import Executor, Kind
from lfm_policy.evaluation.fields import flat
from lfm_policy.flow import LFMError
from lfm_policy.training import TrainConfig
from lfm_policy.training.methods import METHODS

ReadConfig = Callable[[list[str]], TrainConfig]

NAME = re.compile(r"[\w.+-]+")
SAMPLER = re.compile(
    r"((?!temperature )(?P<method>[a-z]\w*) (?P<steps>0*[1-9]\d*)( (?=t)|$))?"
    r"(temperature (?P<temperature>\d+(\.\d+)?))?"
)
# fields of a training run that a sweep decides
OWNED = ("config", "data.path", "output_dir", "overwrite", "resume", "rollout", "seed", "stop_after")
# fields of `data` that no method may have for itself
ALIKE = ("obs_keys", "representation", "rotation", "filter_key", "valid_fraction")


def _check_settings(where: str, settings: Mapping[str, Any] | None) -> None:
    """LFMError where they name a field that the sweep decides."""
    owned = [field for field in flat(settings or {}) if field.startswith(OWNED)]
    if owned:
        raise LFMError(f"{where}: {owned[0]} is the sweep's own; leave it out")


@dataclass(frozen=True)
class TaskConfig:
    """A task of a sweep.

    Args:
        train: YAML file of the training run that all methods share.
        task: Lift, PushT, …, or a gymnasium id, where demonstrations are collected or converted.
        data: a file of demonstrations that is there already.
        source: recording to convert, in any layout that `lfm convert` reads.
        n_demonstrations: to collect where there is neither.
        n_rollouts: evaluation episodes of every run.
        settings: fields of the training run that all methods share beside `train`, such as {sampler.temperature: 1}.
    """

    train: str
    task: str
    data: str | None = None
    source: str | None = None
    n_demonstrations: int = 200
    n_rollouts: int = 200
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_demonstrations", "n_rollouts"):
            if getattr(self, name) < 1:
                raise LFMError(f"tasks: {name} {getattr(self, name)} must be 1 or more")
        _check_settings("tasks: settings", self.settings)
        if "samplers" in self.settings:
            raise LFMError(
                "tasks: settings: samplers belong to methods, which do not all have the same; move them there"
            )


@dataclass(frozen=True)
class SweepConfig:
    """Tasks × methods × seeds × budgets.

    Args:
        output_dir: folder of the sweep; one folder for each task in it.
        tasks: tasks by name.
        methods: methods by name: fields of the training run that differ, such as {method: fm,
            training.learning_rate: 0.001}; `samplers`, a list such as [euler 1, temperature 0.5, midpoint 1
            temperature 0], are further ways to roll the same checkpoints out.
        seeds: training seeds.
        budgets: shares of the training steps, each a run of its own with its own decay of the learning rate: an LFM
            that is half through its sub-flows has no policy to roll out.
        baseline: method that the others are compared with.
        rollout_seed: first evaluation seed.
        n_procs: runs trained, or episodes rolled out, at a time.
        executor: where: `processes` of this machine, or `ray`.
        ray_address: of a Ray cluster; a local one is started if not given.
        results: folder that gets each task's comparison as JSON, text and picture, and what its collection came to.
    """

    output_dir: str
    tasks: dict[str, TaskConfig]
    methods: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[float, ...] = (1.0,)
    baseline: str = ""
    rollout_seed: int = 100_000
    n_procs: int = 2
    executor: Kind = "processes"
    ray_address: str | None = None
    results: str | None = None

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "seeds", "budgets"):
            values = list(getattr(self, name))
            if not values:
                raise LFMError(f"{name}: is empty; name at least one")
            if len(set(values)) < len(values):
                raise LFMError(f"{name}: {values} names one twice; name each once")
            if name in ("tasks", "methods") and (bad := [value for value in values if not NAME.fullmatch(value)]):
                raise LFMError(f"{name}: '{bad[0]}' is no name; use letters, digits and . _ + -")
        for method, settings in self.methods.items():
            _check_settings(f"methods.{method}", settings)
        if self.baseline and self.baseline not in self.methods:
            raise LFMError(f"baseline: {self.baseline} is none of the methods {', '.join(self.methods)}")
        if any(not 0 < budget <= 1 for budget in self.budgets):
            raise LFMError(f"budgets: {list(self.budgets)} must lie above 0 and up to 1")
        self.place()

    def place(self) -> Executor:
        """Where its runs and episodes are computed; LFMError where that is nowhere."""
        return Executor(self.executor, self.n_procs, self.ray_address)


class Sampler(NamedTuple):
    """Another way to draw a checkpoint's chunks; what is None is the checkpoint's own."""

    method: str | None = None
    steps: int | None = None
    temperature: float | None = None

    @property
    def name(self) -> str:
        """`euler1`, `temperature0.5`, `euler1.temperature0.5`, or nothing for the checkpoint's own."""
        solver = [] if self.method is None else [f"{self.method}{self.steps}"]
        return ".".join(solver + ([] if self.temperature is None else [temperature_point(self.temperature)]))


class Run(NamedTuple):
    """One training run of a sweep."""

    task: str
    method: str
    seed: int
    budget: float
    config: TrainConfig
    samplers: tuple[Sampler, ...]
    has_budgets: bool = False

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return Path(self.config.output_dir)


def data_file(config: SweepConfig, task: str) -> Path:
    """The demonstrations of a task: its own file, or the one that the sweep makes."""
    given = config.tasks[task].data
    return Path(given) if given else Path(config.output_dir) / task / "data.hdf5"


def plan_runs(config: SweepConfig, read: ReadConfig) -> list[Run]:
    """Every run, ordered so that whatever is finished first makes whole tables: by task, budget, seed, method.

    `read` makes a training config of the command line's arguments.
    """
    runs = []
    for task in config.tasks:
        for budget in sorted(config.budgets):
            for seed in config.seeds:
                for method in config.methods:
                    runs.append(_run(config, read, task, method, seed, budget))
                    _check_alike(next(run for run in runs if run.task == task), runs[-1])
    return runs


def _check_alike(first: Run, other: Run) -> None:
    """LFMError where two runs of a task would not learn from the same data or act in the same environment."""
    for name in ALIKE:
        was, now = (getattr(run.config.data, name) for run in (first, other))
        if was != now:
            raise LFMError(
                f"methods.{other.method}: data.{name} {now} is not that of {first.method}, {was}; methods of a sweep "
                "learn from the same data, give it to all in the task's training file"
            )


def _run(config: SweepConfig, read: ReadConfig, task: str, method: str, seed: int, budget: float) -> Run:
    settings = flat(config.tasks[task].settings) | flat(config.methods[method] or {})
    further = settings.pop("samplers", None) or ()
    if not isinstance(further, list | tuple):
        raise LFMError(f"methods.{method}: samplers {further} must be a list, as [euler 1]")
    folder = Path(config.output_dir) / task / method / f"seed_{seed}"
    folder = folder if budget == 1 else folder.with_name(f"{folder.name}_budget_{budget:g}")
    arguments = ["--config", config.tasks[task].train, "--data.path", str(data_file(config, task))]
    arguments += ["--output_dir", str(folder), "--seed", str(seed), *_flags(settings)]
    try:
        trained = at_budget(read(arguments), budget)
        samplers = (Sampler(), *(_sampler(text, trained) for text in further))
        resulting = [METHODS[trained.method].sampled(trained, *sampler) for sampler in samplers]
        if any(config in resulting[:k] for k, config in enumerate(resulting)):  # as if there were two training runs
            raise LFMError(f"samplers {further} must be a list that names each once, as [euler 1]")
        return Run(task, method, seed, budget, trained, samplers, len(config.budgets) > 1)
    except LFMError as error:
        raise LFMError(f"methods.{method}: {error}") from error


def at_budget(config: TrainConfig, budget: float) -> TrainConfig:
    """A run of a share of the steps of all stages, its warm-up and its learning rate's decay with them."""
    training, flow = config.training, config.flow
    if budget == 1:
        return config
    if training.steps is None:
        changed = replace(training, epochs=max(1, round(budget * training.passes)))
    else:
        changed = replace(training, steps=max(1, round(budget * training.steps)))
    warmup = round(budget * training.warmup_steps)
    shared = round(budget * flow.shared_start)
    return replace(config, training=replace(changed, warmup_steps=warmup), flow=replace(flow, shared_start=shared))


def _flags(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        yield f"--{name}"
        yield value if isinstance(value, str) else json.dumps(value)


def _sampler(text: object, config: TrainConfig) -> Sampler:
    found = SAMPLER.fullmatch(str(text))
    if not found or not str(text):
        raise LFMError(
            f"samplers: '{text}' is none; write method and steps, temperature, or both, as 'euler 1 temperature 0.5'"
        )
    method, steps, warmth = found["method"], found["steps"], found["temperature"]
    known = METHODS[config.method].samplers
    if not known or method not in (None, *known):
        choice = ", ".join(known) or "no choice"
        raise LFMError(f"samplers: '{text}' is none of this method's; it has {choice}")
    chosen = Sampler(method, int(steps) if steps else None, float(warmth) if warmth else None)
    if METHODS[config.method].sampled(config, *chosen) == config:
        raise LFMError(f"samplers: '{text}' is what its runs have as their own; leave it out")
    return chosen
