"""`lfm distill`: Algorithm A.1 of the flow core on a policy, resumed bit for bit, whose students are a policy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml

from lfm_policy.cli.main import main
from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.flow import Distiller, LFMError, TensorSource
from lfm_policy.policy import DistilledPolicy, LFMPolicy, find_checkpoint, load_policy, save_policy
from lfm_policy.policy.distilled import cut
from lfm_policy.training import TrainConfig, Trainer
from lfm_policy.training.config import ChunkConfig, DataConfig, FlowConfig, RolloutConfig, TrainingConfig
from lfm_policy.training.distillation import DistillConfig, DistillRun
from lfm_policy.training.students import StudentsConfig
from lfm_policy.training.windows import make_windows
from tests.evaluation.evaluated import regression_checkpoint
from tests.helpers.point import PLAIN
from tests.helpers.policies import point_checkpoint
from tests.helpers.processes import wait_until
from tests.training.runs import TINY, metrics, small_config, small_dataset, train
from tests.training.test_resume import assert_same_run

SETTINGS = StudentsConfig(batch_size=8, learning_rate=1e-3, warmup_steps=1, steps=3, teacher_steps=1, log_every=2)
STEPS = 40  # enough for a signal to come before the last
ONE_NETWORK = {"share_weights": True, "coupling": "common", "marginals": "exact"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "two sub-flows a student": ("lfm", {"n_students": 2}),
    "students' inputs, fresh weights": (
        "lfm",
        {"distillation": replace(SETTINGS, student_inputs="student", from_teacher=False), "seed": 7},
    ),
    "one network, cut anew": ("small", {"n_stretches": 6, "n_students": 3}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of the point, and policies: lfm (N = 4) and small (one network)."""
    folder = tmp_path_factory.mktemp("runs")
    record_demonstrations(folder / "data.hdf5", EnvSpec(PLAIN, success_key="success"), 6)
    for method, flow in (("lfm", {"marginals": "exact"}), ("small", ONE_NETWORK)):
        train(
            TrainConfig(
                output_dir=str(folder / method),
                data=DataConfig(str(folder / "data.hdf5"), obs_keys=("state",), valid_fraction=0.2),
                method=method,  # type: ignore[arg-type]
                policy=ChunkConfig(horizon=8, n_action_steps=4),
                network=TINY,
                flow=FlowConfig(n_subflows=4, **flow),  # type: ignore[arg-type]
                training=TrainingConfig(steps=2, batch_size=16, learning_rate=1e-2, warmup_steps=1),
                rollout=RolloutConfig(seed=4000, n_rollouts=5),
                seed=3,
                threads=1,
            )
        )
    regression_checkpoint(folder / "regression")
    return folder


def config_of(runs: Path, output_dir: Path, teacher: str = "lfm", **changes: Any) -> DistillConfig:
    values: dict[str, Any] = {"distillation": SETTINGS, "threads": 1, **changes}
    return DistillConfig(str(runs / teacher), str(output_dir), **values)


def distilled(config: DistillConfig) -> Path:
    """Run it; the newest checkpoint."""
    return DistillRun(config, say=lambda line: None).run()


@pytest.mark.parametrize(("teacher", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_a_run_is_algorithm_a1_of_the_flow_core(
    runs: Path, tmp_path: Path, teacher: str, changes: dict[str, Any]
) -> None:
    """The same students come from `Distiller`, given the conditions of the teacher's own training windows."""
    config = config_of(runs, tmp_path / "run", teacher, **changes)
    policy = load_policy(distilled(config))
    assert isinstance(policy, DistilledPolicy)

    trainer = Trainer(replace(training_config(runs, teacher), output_dir=str(tmp_path / "unused")), lambda line: None)
    taught = load_policy(runs / teacher)
    assert isinstance(taught, LFMPolicy)
    windows = make_windows(trainer.train.demonstrations, taught)
    cond = windows.batch(torch.arange(len(windows)))[1]
    flow = (cut(taught, config.n_stretches) if config.n_stretches else taught).flow
    options, seed = config.distillation.options(), 3 if config.seed is None else config.seed
    alone = Distiller(flow, config.n_students or 4, (8, 2), options, TensorSource(cond, cond), seed=seed)
    while not alone.done:
        alone.step()
    got, want = policy.students.state_dict(), alone.students.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    for name in ("observation_normalizer", "action_normalizer"):
        ours, theirs = (getattr(owner, name).state_dict() for owner in (policy, taught))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def training_config(runs: Path, method: str) -> TrainConfig:
    """The config of a teacher's run, as far as its data go."""
    told = json.loads((find_checkpoint(runs / method) / "policy.json").read_text())["config"]
    data = DataConfig(**{**told["data"], "obs_keys": tuple(told["data"]["obs_keys"])})
    return TrainConfig("unused", data, policy=ChunkConfig(horizon=8, n_action_steps=4), network=TINY, seed=told["seed"])


@pytest.mark.parametrize("name", ["two sub-flows a student", "one network, cut anew"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(runs: Path, tmp_path: Path, name: str) -> None:
    """Broken off at steps 1 and 2, the second time from a moved dataset and in a renamed folder."""
    teacher, changes = VARIANTS[name]
    distilled(config_of(runs, tmp_path / "whole", teacher, **changes))
    distilled(config_of(runs, tmp_path / "broken", teacher, **changes, stop_after=1))
    distilled(config_of(runs, tmp_path / "broken", teacher, **changes, stop_after=1, resume=True))
    (tmp_path / "broken").rename(tmp_path / "renamed")
    shutil.copy(runs / "data.hdf5", tmp_path / "moved.hdf5")
    config = config_of(runs, tmp_path / "renamed", teacher, **changes, resume=True)
    distilled(replace(config, data=replace(config.data, path=str(tmp_path / "moved.hdf5"))))
    assert_same_run(tmp_path / "whole", tmp_path / "renamed")
    assert [row["step"] for row in metrics(tmp_path / "whole")] == [2, 3]


def test_ctrl_c_ends_with_130_and_a_checkpoint_from_which_the_command_goes_on(runs: Path, tmp_path: Path) -> None:
    config = config_of(
        runs, tmp_path / "broken", n_students=1, distillation=replace(SETTINGS, steps=STEPS, teacher_method="euler")
    )
    distilled(replace(config, output_dir=str(tmp_path / "whole")))
    file, env = tmp_path / "config.yaml", {**os.environ, "OMP_NUM_THREADS": "1"}
    file.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "lfm_policy.cli.main", "distill", "--config", str(file)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    log = tmp_path / "broken" / "metrics.jsonl"
    wait_until(lambda: log.is_file() and bool(log.read_text()), process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume true" in told
    assert 0 < int(find_checkpoint(tmp_path / "broken").name.removeprefix("step_")) < STEPS
    assert main(["distill", "--config", str(file), "--resume", "true"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_students_are_rolled_out_and_compared_with_their_teacher(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`lfm compare` takes them as trained on the same data, and refuses the seeds that their teacher was chosen by."""
    distilled(config_of(runs, tmp_path / "two", n_students=2))
    capsys.readouterr()
    rollout = ["rollout", str(tmp_path / "two"), "--n_rollouts", "2", "--json", str(tmp_path / "two.json")]
    assert main(rollout) == 0
    episodes = json.loads((tmp_path / "two.json").read_text())["episodes"]
    assert [row["nfe"] for row in episodes] == [2 * row["chunks"] for row in episodes]
    compare = ["compare", f"teacher={runs / 'lfm'}", f"students={tmp_path / 'two'}", "--n_rollouts", "2"]
    assert main([*compare, "--output_dir", str(tmp_path / "compared")]) == 0
    told = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert [told["methods"][name]["runs"][0]["training_seed"] for name in ("teacher", "students")] == [3, 3]
    capsys.readouterr()
    students = ["compare", f"a={tmp_path / 'two'}", f"b={tmp_path / 'two'}", "--n_rollouts", "2", "--seed", "4003"]
    assert main([*students, "--output_dir", str(tmp_path / "refused")]) == 2
    assert "its training rolled out on seeds 4003 to 4004, which are reported" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line with which the command ends; nothing may have been written."""
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert main(["distill", *map(str, arguments)]) == 2
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


MISTAKES: dict[str, tuple[str, list[str], list[str]]] = {
    "does not divide": ("lfm", ["--n_students", "3"], ["n_students: 3", "4 sub-flows; take 1, 2, 4"]),
    "none": ("lfm", ["--n_students", "0"], ["n_students: 0", "1 or more"]),
    "no flow": ("regression", [], ["teacher:", "is of type regression, no flow"]),
    "no run": ("nowhere", [], ["nowhere: does not exist"]),
    "networks of their own": ("lfm", ["--n_stretches", "8"], ["n_stretches: 8", "has 4; leave it out"]),
    "no dataset": ("lfm", ["--data.path", "none.hdf5"], ["none.hdf5", "data.hdf5", "--data.path"]),
    "steps": ("lfm", ["--distillation.steps", "0"], ["distillation.steps: 0"]),
    "momentum": ("lfm", ["--distillation.beta1", "1.5"], ["distillation.beta1: 1.5", "below 1"]),
    "field": ("lfm", ["--distillation.step", "3"], ["distillation.step'", "distillation.steps"]),
    "device": ("lfm", ["--device", "abacus"], ["device", "abacus"]),
    "nothing to resume": ("lfm", ["--resume", "true"], ["run", "does not exist"]),
}


@pytest.mark.parametrize(("teacher", "arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: str, arguments: list[str], words: list[str]
) -> None:
    line = refused(
        capsys, tmp_path, "--teacher", runs / teacher, "--output_dir", tmp_path / "run", "--threads", 1, *arguments
    )
    for word in words:
        assert word in line


def test_another_dataset_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.hdf5"
    shutil.copy(runs / "data.hdf5", other)
    with h5py.File(other, "a") as file:
        file["data/demo_0/actions"][0, 0] += 0.01
    line = refused(capsys, tmp_path, "--teacher", runs / "lfm", "--output_dir", tmp_path / "run", "--data.path", other)
    assert f"{other}: is not the dataset that" in line
    assert "(data.hdf5, 6 episodes); give that one with --data.path" in line


def test_a_teacher_is_neither_overwritten_nor_resumed_nor_taken_half_trained(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "lfm", tmp_path / "own")
    for option in ("--overwrite", "--resume"):
        line = refused(
            capsys, tmp_path, "--teacher", tmp_path / "own", "--output_dir", tmp_path / "own", option, "true"
        )
        assert "output_dir: " in line
        assert "holds the teacher" in line
    line = refused(capsys, tmp_path, "--teacher", runs / "lfm", "--output_dir", tmp_path / "own", "--resume", "true")
    assert "is of type lfm, no distillation; choose another output_dir" in line

    data = small_dataset(tmp_path / "lift.hdf5")
    train(small_config(data, tmp_path / "half", stop_after=8))
    line = refused(capsys, tmp_path, "--teacher", tmp_path / "half", "--output_dir", tmp_path / "run")
    assert "only 1 of 3 sub-flows are trained" in line
    (tmp_path / "saved").mkdir()
    point_checkpoint(tmp_path / "saved")
    line = refused(capsys, tmp_path, "--teacher", tmp_path / "saved", "--output_dir", tmp_path / "run")
    assert "policy.json: does not tell what it was trained on ('config'); give a run of `lfm train`" in line


def test_another_teacher_or_setting_is_refused_for_resuming(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "lfm", tmp_path / "lfm")
    config = config_of(tmp_path, tmp_path / "run", stop_after=1)
    distilled(config)
    config = replace(config, resume=True)
    with pytest.raises(LFMError, match=r"distillation\.steps: was 3, now 6"):
        distilled(replace(config, distillation=replace(SETTINGS, steps=6)))
    with pytest.raises(LFMError, match="n_students: was 4, now 2"):
        distilled(replace(config, n_students=2))
    checkpoint = find_checkpoint(tmp_path / "lfm")
    description = json.loads((checkpoint / "policy.json").read_text())
    policy = load_policy(checkpoint)
    next(policy.parameters()).data += 1
    save_policy(policy, checkpoint, **{name: description[name] for name in ("dataset", "config")})
    with pytest.raises(LFMError, match="is not the teacher that these students began with"):
        distilled(config)


def test_a_loss_that_is_not_finite_leaves_nothing(runs: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, steps=50, warmup_steps=0)
    with pytest.raises(LFMError, match="loss of student"):
        distilled(config_of(runs, tmp_path / "run", distillation=settings))
    assert list(tmp_path.iterdir()) == []
