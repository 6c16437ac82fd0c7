"""What a sweep consists of, and what cannot be swept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfm_policy.cli.main import main
from lfm_policy.cli.sweep import sweep
from lfm_policy.flow import LFMError
from lfm_policy.sweep.plan import SweepConfig, TaskConfig, at_budget
from lfm_policy.sweep.run import waves
from lfm_policy.training import TrainConfig, TrainingConfig
from tests.sweep.sweeps import METHODS, TRAIN, config_of, runs_of

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_sweep_of_the_repository_is_valid(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    tasks = {name: TaskConfig(**task) for name, task in values.pop("tasks").items()}
    config = SweepConfig(output_dir="out", tasks=tasks, **values)
    assert len(runs_of(config)) == len(tasks) * len(config.methods) * len(config.seeds) * len(config.budgets)


def test_every_task_of_a_sweep_is_held_against_itself(tmp_path: Path, data: Path) -> None:
    """What is the first task's own kind of actions, one method may not have for itself in the second."""
    config = config_of(tmp_path, data, methods={"plain": {}, "far": {"data.representation": "absolute"}})
    absolute = tmp_path / "absolute.yaml"
    absolute.write_text(yaml.safe_dump({**TRAIN, "data": {**TRAIN["data"], "representation": "absolute"}}))
    tasks = {"one": replace(config.tasks["point"], train=str(absolute)), "two": config.tasks["point"]}
    with pytest.raises(LFMError, match=r"methods\.far: data\.representation absolute is not that of plain, delta"):
        runs_of(replace(config, tasks=tasks))


def test_budgets_are_shares_of_every_stage(tmp_path: Path, data: Path) -> None:
    config = config_of(tmp_path, data, budgets=(1.0, 0.5))
    runs = {(run.method, run.budget): run.config for run in runs_of(config)}

    def stages(method: str, budget: float) -> tuple[int | None, int, int]:
        chosen: TrainConfig = runs[method, budget]
        return chosen.training.steps, chosen.flow.shared_start, chosen.training.warmup_steps

    assert (stages("lfm", 1.0), stages("lfm", 0.5)) == ((8, 4, 2), (4, 2, 1))
    # one network sees as many batches as each sub-flow, its half of the shared start included
    assert (stages("fm", 1.0), stages("fm", 0.5)) == ((10, 0, 2), (5, 0, 1))
    epochs = replace(runs["lfm", 1.0], training=TrainingConfig(epochs=30))
    assert at_budget(epochs, 0.5).training.epochs == 15


def test_a_tasks_settings_are_those_of_all_its_methods_but_for_their_own(tmp_path: Path, data: Path) -> None:
    config = config_of(tmp_path, data)
    settings = {"sampler.temperature": 0.5, "training.learning_rate": 5e-3}
    tasks = {"point": replace(config.tasks["point"], settings=settings)}
    runs = {run.method: run.config for run in runs_of(replace(config, tasks=tasks))}
    assert {run.sampler.temperature for run in runs.values()} == {0.5}
    rates = {name: run.training.learning_rate for name, run in runs.items()}
    assert rates == {"lfm": 5e-3, "fm": 2e-3, "regression": 5e-3}
    nested = replace(config, tasks={"point": replace(tasks["point"], settings={"sampler": {"temperature": 0.5}})})
    (run,) = runs_of(replace(nested, methods={"lfm": {"sampler": {"steps": 1}}}))
    assert (run.config.sampler.temperature, run.config.sampler.steps) == (0.5, 1)
    with pytest.raises(LFMError, match="tasks: settings: samplers belong to methods"):
        replace(config.tasks["point"], settings={"samplers": ["euler 1"]})
    with pytest.raises(LFMError, match="tasks: settings: seed is the sweep's own; leave it out"):
        replace(config.tasks["point"], settings={"seed": 1})


def test_waves_end_with_whole_tables(tmp_path: Path, data: Path) -> None:
    config = config_of(tmp_path, data, budgets=(1.0, 0.5), seeds=(3, 4))
    ends = [[(run.method, run.budget, run.seed) for run in done] for done in waves(runs_of(config))]
    order = [(method, budget, seed) for budget in (0.5, 1.0) for seed in (3, 4) for method in METHODS]
    assert ends == [order[: 3 * k] for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, r"methods: is empty"),
        ({"methods": {"fm": {"method": "fmm"}}}, r"methods\.fm: method: 'fmm' is not one of"),
        ({"methods": {"fm": {"training.stepz": 3}}}, r"methods\.fm: unknown field 'training\.stepz'; did you mean"),
        ({"methods": {"lfm": {"samplers": [{"euler": 1}]}}}, r"samplers: '\{'euler': 1\}' is none; write method"),
        ({"methods": {"lfm": {"samplers": ["euler"]}}}, r"samplers: 'euler' is none; write method and steps"),
        ({"baseline": "sfm"}, r"baseline: sfm is none of the methods lfm, fm, regression"),
        ({"budgets": (0.0,)}, r"budgets: \[0\.0\] must lie above 0"),
        ({"executor": "slurm"}, r"executor slurm: must be one of processes, ray"),
        ({"seeds": (0, 0)}, r"seeds: \[0, 0\] names one twice"),
        ({"methods": {"lfm@1": {}}}, r"methods: 'lfm@1' is no name"),
        ({"methods": {"lfm": {"seed": 7}}}, r"methods\.lfm: seed is the sweep's own"),
        ({"methods": {"lfm": {"data": {"path": "other.hdf5"}}}}, r"methods\.lfm: data\.path is the sweep's own"),
        (
            {"methods": {**METHODS, "few": {"data.filter_key": "train"}}},
            r"methods\.few: data\.filter_key train is not that of lfm, None; methods of a sweep learn",
        ),
        (
            {"methods": {**METHODS, "far": {"data.representation": "absolute"}}},
            r"methods\.far: data\.representation absolute is not that of lfm, delta",
        ),
        ({"methods": {"lfm": {"samplers": ["midpoint 2"]}}}, r"'midpoint 2' is what its runs have as their own"),
        ({"methods": {"lfm": {"samplers": ["temperature 1"]}}}, r"'temperature 1' is what its runs have as their own"),
        (
            {"methods": {"lfm": {"samplers": ["euler 1", "euler 1 temperature 1"]}}},
            r"samplers .* must be a list that names each once",
        ),
        ({"methods": {"lfm": {"samplers": ["temperature -1"]}}}, r"'temperature -1' is none; write method"),
        ({"methods": {"mip": {"method": "mip", "samplers": ["temperature 0"]}}}, r"it has no choice"),
        (
            {"methods": {"diffusion": {"method": "diffusion", "samplers": ["ddim 200"]}}},
            r"methods\.diffusion: diffusion\.steps: 200 must lie between 1 and diffusion\.n_levels 100",
        ),
        (
            {"methods": {"diffusion": {"method": "diffusion", "samplers": ["ddim 16"]}}},
            r"'ddim 16' is what its runs have as their own",
        ),
        (
            {"methods": {"regression": {"method": "regression", "samplers": ["euler 1"]}}},
            r"'euler 1' is none of this method",
        ),
        (
            {"methods": {"lfm": {"samplers": ["euler 1", "euler 01"]}}},
            r"samplers .* must be a list that names each once",
        ),
        ({"methods": {"lfm": {"policy.horizon": 7}}}, r"policy\.horizon: 7 is not divisible"),
        ({"tasks": {"a": TaskConfig("configs/small/lift.yaml", "Liftt")}}, r"tasks\.a: task Liftt is no environment"),
        (
            {"tasks": {"a": TaskConfig("configs/small/lift.yaml", "Lift", data="no.hdf5")}},
            r"tasks\.a: no\.hdf5 does not exist",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, data: Path
) -> None:
    with pytest.raises(LFMError, match=message):
        sweep(config_of(tmp_path, data, **changes), progress=False)
    assert not (tmp_path / "out").exists()


def test_the_command_reads_a_file_and_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"tasks": {"a": {"train": "none.yaml", "task": "Lift"}}, "methods": {"lfm": {}}}))
    assert main(["sweep", "--config", str(file), "--output_dir", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: methods.lfm: config: ")
    assert told.endswith("none.yaml does not exist; give the path of a YAML file\n")
