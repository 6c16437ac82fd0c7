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

from lfm_policy.cli.sweep import sweep, write
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
from lfm_policy.sweep.plan import SweepConfig
from lfm_policy.sweep.training import has_checkpoint, is_done, training_seconds
from lfm_policy.training import Trainer
from tests.helpers.point import FAILING, PLAIN, POINT
from tests.helpers.processes import wait_until
from tests.sweep.sweeps import METHODS, N, config_of, runs_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> SweepConfig:
    config = config_of(tmp_path_factory.mktemp("sweep"), data, seeds=(0, 1))
    assert sweep(config, progress=False) == 0
    return config


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def rows(file: Path) -> list[dict[str, Any]]:
    return [reproducible(json.loads(line)) for line in file.read_text().splitlines()[1:]]


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
