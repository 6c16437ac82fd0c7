"""`lfm sweep`: its plan, its tables, and what an interruption leaves."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from lfm_policy.cli.main import main
from lfm_policy.cli.sweep import sweep, write
from lfm_policy.cli.train import parse
from lfm_policy.data.hdf5 import SOURCE
from lfm_policy.data.saved import CHECKPOINTS
from lfm_policy.evaluation.attempts import attempts_folder
from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.comparison import Comparison
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.episode import reproducible
from lfm_policy.evaluation.rollout import evaluate
from lfm_policy.flow import LFMError
from lfm_policy.policy import find_checkpoint
from lfm_policy.policy.serialization import read_description
from lfm_policy.sweep.plan import Run, SweepConfig, TaskConfig, at_budget, plan_runs
from lfm_policy.sweep.run import waves
from lfm_policy.sweep.training import has_checkpoint, is_done, training_seconds
from lfm_policy.training import TrainConfig, Trainer, TrainingConfig
from tests.helpers.point import FAILING, PLAIN, POINT
from tests.helpers.processes import wait_until

ROOT = Path(__file__).parent.parent.parent

CONFIGS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
TRAIN = {
    "data": {"obs_keys": ["state"], "action_normalizer": "minmax"},
    "policy": {"horizon": 8, "n_action_steps": 4},
    "network": {"channels": [8, 16], "kernel_size": 3, "n_groups": 4, "embedding_dim": 8},
    "global_channels": [16, 32],
    "flow": {"n_subflows": 2, "interpolant": "geodesic", "coupling": "common", "marginals": "exact", "shared_start": 4},
    "training": {"steps": 8, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 2, "checkpoint_every": 3},
}
METHODS: dict[str, dict[str, Any]] = {
    "lfm": {"samplers": ["euler 1", "euler 2 temperature 0.5"]},
    "fm": {"method": "fm", "training.learning_rate": 2e-3},
    "regression": {"method": "regression"},
}
N = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.hdf5"
    record_demonstrations(path, EnvSpec(PLAIN, success_key="success"), 6)
    return path


def config_of(folder: Path, data: Path, **changes: Any) -> SweepConfig:
    train = folder / "train.yaml"
    train.write_text(yaml.safe_dump(TRAIN))
    task = TaskConfig(str(train), PLAIN, data=str(data), n_rollouts=N)
    values: dict[str, Any] = {"tasks": {"point": task}, "methods": METHODS, "n_procs": 1, **changes}
    return SweepConfig(str(folder / "out"), **values)


def runs_of(config: SweepConfig) -> list[Run]:
    return plan_runs(config, lambda flags: parse(flags, "lfm sweep"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> SweepConfig:
    config = config_of(tmp_path_factory.mktemp("sweep"), data, seeds=(0, 1))
    assert sweep(config, progress=False) == 0
    return config


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def rows(file: Path) -> list[dict[str, Any]]:
    return [reproducible(json.loads(line)) for line in file.read_text().splitlines()[1:]]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_sweep_of_the_repository_is_valid(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    tasks = {name: TaskConfig(**task) for name, task in values.pop("tasks").items()}
    config = SweepConfig(output_dir="out", tasks=tasks, **values)
    assert len(runs_of(config)) == len(tasks) * len(config.methods) * len(config.seeds) * len(config.budgets)


def test_every_run_is_rolled_out_with_every_sampler(finished: SweepConfig) -> None:
    """Rows are those of `lfm rollout` on the run's checkpoint, whatever else the sweep did."""
    folder = Path(finished.output_dir) / "point"
    for run in runs_of(finished):
        own = [reproducible(row) for row in evaluate(run.folder, N).episodes]
        assert [without_more(row) for row in rows(run.folder / "rows" / "own.jsonl")] == own
        if run.method == "lfm":
            other = [reproducible(row) for row in evaluate(run.folder, N, solver="euler", solver_steps=1).episodes]
            assert [without_more(row) for row in rows(run.folder / "rows" / "euler1.jsonl")] == other
            cooler = evaluate(run.folder, N, solver="euler", solver_steps=2, temperature=0.5).episodes
            got = rows(run.folder / "rows" / "euler2.temperature0.5.jsonl")
            assert [without_more(row) for row in got] == [reproducible(row) for row in cooler]
    told = json.loads((folder / "comparison.json").read_text())
    assert set(told["methods"]) == {"lfm", "lfm@euler1", "lfm@euler2.temperature0.5", "fm", "regression"}
    assert told["seeds"] == list(range(100_000, 100_000 + N))
    assert {file.suffix for file in folder.glob("comparison.*")} == {".json", ".txt", ".png"}


def without_more(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("chunk_")}


def test_what_is_done_is_not_done_again(finished: SweepConfig) -> None:
    before = {name: content for name, content in files(Path(finished.output_dir)).items() if "comparison" not in name}
    sweep(finished, progress=False)
    assert {k: v for k, v in files(Path(finished.output_dir)).items() if "comparison" not in k} == before


def test_a_sweep_broken_off_ends_as_if_it_had_not_been(finished: SweepConfig, tmp_path: Path, data: Path) -> None:
    """One run stopped within its training, one before it began, one within its rollouts, its last row torn."""
    shutil.copytree(finished.output_dir, tmp_path / "out")
    config = config_of(tmp_path, data, seeds=(0, 1))
    whole = {run.folder: files(run.folder) for run in runs_of(config)}
    stopped, absent, torn = (run for run in runs_of(config) if run.seed == 1)
    shutil.rmtree(stopped.folder)
    trained = replace(stopped.config, stop_after=5)
    Trainer(trained, say=lambda line: None, progress=False).run()
    shutil.rmtree(absent.folder)
    store = torn.folder / "rows" / "own.jsonl"
    lines = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    sweep(config, progress=False)
    for run in (stopped, absent, torn):
        weights = next((run.folder / CHECKPOINTS).glob("*/model.safetensors"))
        name = str(weights.relative_to(run.folder))
        assert weights.read_bytes() == whole[run.folder][name]
        got = [without_more(row) for row in rows(run.folder / "rows" / "own.jsonl")]
        want = [json.loads(line) for line in whole[run.folder]["rows/own.jsonl"].decode().splitlines()[1:]]
        assert got == [without_more(reproducible(row)) for row in want]


def test_a_run_of_another_config_is_refused_by_field(finished: SweepConfig) -> None:
    changed = {**METHODS, "fm": {"method": "fm", "training.learning_rate": 3e-3}}
    told = r"fm/seed_0: was trained with another config \(training\.learning_rate: was 0\.002"
    with pytest.raises(LFMError, match=told):
        sweep(replace(finished, methods=changed), progress=False)


def test_a_run_of_other_demonstrations_is_refused(finished: SweepConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.hdf5"
    record_demonstrations(other, EnvSpec(PLAIN, success_key="success"), 6, seed=50)
    task = replace(finished.tasks["point"], data=str(other))
    with pytest.raises(
        LFMError, match=r"lfm/seed_0: was trained with another config \(data: is not the demonstrations of"
    ):
        sweep(replace(finished, tasks={"point": task}), progress=False)


def test_rollouts_do_not_begin_where_demonstrations_did(finished: SweepConfig) -> None:
    """They were recorded on seeds 0 to 5, which checkpoints tell."""
    for run in runs_of(finished):
        told = read_description(find_checkpoint(run.folder))["dataset"]
        assert told["seed_ranges"] == [[0, 5]]
    before = files(Path(finished.output_dir))
    with pytest.raises(
        LFMError, match=r"^rollout_seed: 3: .*data\.hdf5 was recorded on seeds 3 to 5, .*choose another"
    ):
        sweep(replace(finished, rollout_seed=3), progress=False)
    assert files(Path(finished.output_dir)) == before


def test_seeds_that_a_collection_may_take_are_refused_before_it(tmp_path: Path, data: Path) -> None:
    config = config_of(tmp_path, data, rollout_seed=59)
    own = replace(config.tasks["point"], data=None, n_demonstrations=6)
    with pytest.raises(LFMError, match=r"^rollout_seed: 59 may be a seed of demonstrations; choose 60 or more$"):
        sweep(replace(config, tasks={"point": own}), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_ends_those_that_train_beside_it(tmp_path: Path, data: Path) -> None:
    """The error names the run; the other process is ended within its training."""
    long = {"training.steps": 100_000, "training.checkpoint_every": 100_000}
    config = config_of(tmp_path, data, methods={"lfm": long, "bad": {"training.learning_rate": 1e30}}, n_procs=2)
    with pytest.raises(LFMError, match=r"bad/seed_0: loss of all stretches together is nan at step"):
        sweep(config, progress=False)
    assert not multiprocessing.active_children()


def test_demonstrations_that_a_sweep_would_make_otherwise_are_refused_by_field(tmp_path: Path, data: Path) -> None:
    """Those of a finished sweep, whose config asks for others now; what is there is not touched."""
    config = config_of(tmp_path, data, methods={"regression": {"method": "regression"}})
    point = replace(config.tasks["point"], data=None, n_demonstrations=4)
    made = replace(config, tasks={"point": point})
    assert sweep(made, progress=False) == 0
    before = files(tmp_path)
    for changed, told in (
        ({"n_demonstrations": 5}, r"n_demonstrations: was 4, now 5"),
        ({"task": POINT}, rf"task: was {PLAIN}, now {POINT}"),
        ({"source": str(data)}, r"source: was none, now data\.hdf5"),
    ):
        with pytest.raises(
            LFMError, match=rf"tasks\.point: .*data\.hdf5 was made with other settings \({told}\); undo"
        ):
            sweep(replace(made, tasks={"point": replace(point, **changed)}), progress=False)
    assert files(tmp_path) == before
    assert sweep(made, progress=False) == 0, "its own demonstrations pass"
    with h5py.File(Path(config.output_dir, "point", "data.hdf5"), "a") as file:
        file["data"].attrs[SOURCE] = "human.zarr"  # as `lfm convert` notes it
    with pytest.raises(LFMError, match=r"\(source: was human\.zarr, now none\)"):
        sweep(made, progress=False)


def test_a_collection_that_fails_names_what_the_sweep_has(tmp_path: Path, data: Path) -> None:
    config = config_of(tmp_path, data)
    task = replace(config.tasks["point"], data=None, task=FAILING, n_demonstrations=30)
    file = tmp_path / "out" / "point" / "data.hdf5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lfm_policy.evaluation.collect.MIN_SUCCESS_RATE", 0.9)
        with pytest.raises(
            LFMError, match=rf"tasks\.point: .* 90%; mend the expert, then remove {attempts_folder(file)}; "
        ):
            sweep(replace(config, tasks={"point": task}), progress=False)
    shutil.rmtree(attempts_folder(file))
    without = replace(config.tasks["point"], data=None, task="CartPole-v1")
    with pytest.raises(LFMError, match=r"tasks\.point: .*no make_expert.*; give its demonstrations as data or source"):
        sweep(replace(config, tasks={"point": without}), progress=False)


def test_every_task_of_a_sweep_is_held_against_itself(tmp_path: Path, data: Path) -> None:
    """What is the first task's own kind of actions, one method may not have for itself in the second."""
    config = config_of(tmp_path, data, methods={"plain": {}, "far": {"data.representation": "absolute"}})
    absolute = tmp_path / "absolute.yaml"
    absolute.write_text(yaml.safe_dump({**TRAIN, "data": {**TRAIN["data"], "representation": "absolute"}}))
    tasks = {"one": replace(config.tasks["point"], train=str(absolute)), "two": config.tasks["point"]}
    with pytest.raises(LFMError, match=r"methods\.far: data\.representation absolute is not that of plain, delta"):
        runs_of(replace(config, tasks=tasks))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_every_run_that_trains(number: int, tmp_path: Path, data: Path) -> None:
    """Processes of a pool do not hear it themselves; without this, hours between two checkpoints would be lost."""
    long = {"training.steps": 100_000, "training.checkpoint_every": 100_000, "training.log_every": 5}
    config = config_of(tmp_path, data, methods={"lfm": long, "fm": {"method": "fm", **long}}, n_procs=2)
    file = tmp_path / "sweep.yaml"
    values = {name: value for name, value in asdict(config).items() if value not in (None, "")}
    file.write_text(yaml.safe_dump({**values, "seeds": [0], "budgets": [1.0]}))
    command = [sys.executable, "-m", "lfm_policy.cli.main", "sweep", "--config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = [run.folder / "metrics.jsonl" for run in runs_of(config)]
    wait_until(lambda: all(log.is_file() and log.read_text() for log in logs), process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert all(has_checkpoint(run.config) and not is_done(run) for run in runs_of(config))


def test_budgets_are_runs_of_their_own_and_whole_tables_are_published(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, results = [], tmp_path / "results"

    def spy(task: str, comparison: Comparison, is_whole: bool, config: SweepConfig) -> None:
        write(task, comparison, is_whole, config)
        published.append((is_whole, (results / "point.json").exists()))

    monkeypatch.setattr("lfm_policy.cli.sweep.write", spy)
    methods = {"lfm": {}, "fm": {"method": "fm"}}
    config = config_of(tmp_path, data, methods=methods, budgets=(0.5, 1.0), results=str(results))
    assert sweep(config, progress=False) == 0
    assert published == [(False, False), (True, True)]
    told = json.loads((results / "point.json").read_text())
    points = {label: (told["methods"][label]["step"], told["methods"][label]["runs"]) for label in told["methods"]}
    # (4 + 2 · 8) / 2 steps for each of two sub-flows; one network takes as many
    assert {label: step for label, (step, _) in points.items()} == {
        "lfm@0.5": 5,
        "fm@0.5": 5,
        "lfm@1": 10,
        "fm@1": 10,
    }
    assert all(len(runs) == 1 for _, runs in points.values()), "budgets are no training seeds"
    epochs = {label: method["epochs"] for label, method in told["methods"].items()}
    windows = len(Trainer(replace(runs_of(config)[0].config, overwrite=True), say=lambda line: None).train)
    assert epochs == pytest.approx({label: step * 16 / windows for label, (step, _) in points.items()})
    assert [(pair["first"], pair["second"]) for pair in told["pairs"]] == [("fm@0.5", "lfm@0.5"), ("fm@1", "lfm@1")]


def test_seconds_of_training_are_those_of_its_steps_whatever_its_interruptions(tmp_path: Path) -> None:
    """Two steps at 1 a second, two at 4; a held-out loss between, and an entry of a session that was given up."""
    log = [
        {"step": 2, "loss": 1.0, "steps_per_second": 1.0},
        {"step": 2, "valid_loss": 1.0},
        {"step": 4, "loss": 1.0, "steps_per_second": 4.0},
        {"step": 4, "loss": 1.0, "steps_per_second": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    assert training_seconds(tmp_path) == 2 / 1 + 2 / 4


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
