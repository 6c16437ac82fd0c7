"""`lfm rollout` end to end: what it prints and writes, and what it refuses before doing anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lfm_policy.cli.main import main
from lfm_policy.evaluation.episode import reproducible
from lfm_policy.evaluation.statistics import wilson
from tests.helpers.point import PLAIN
from tests.helpers.policies import point_checkpoint


def lfm(command: str) -> int:
    """Exit code of a command line."""
    return main(command.split())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run's folder in it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run" / "checkpoints" / "step_40"
    folder.mkdir(parents=True)
    point_checkpoint(folder)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"run"}


def test_everything_is_written_and_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = "--json a.json --video a.mp4 --poster p.png --paths a.png"
    assert lfm(f"rollout run --n_rollouts 4 --max_steps 8 --n_video 2 {outputs}") == 0
    assert files(run) == {"a.json", "a.mp4", "p.png", "a.png"}
    report = json.loads((run / "a.json").read_text())
    assert str(run) not in (run / "a.json").read_text(), "paths of this machine stay out"
    low, high = wilson(report["n_success"], 4)
    lines = capsys.readouterr().out.splitlines()
    told = f"success   {report['n_success']} of 4 = {report['success_rate']:.3f} (95 % {low:.3f} to {high:.3f})"
    assert told in lines
    assert lines[-1] == "written   a.json, a.png, a.mp4, p.png"


def test_two_runs_of_one_seed_give_the_same_rows(run: Path) -> None:
    for name in ("a.json", "b.json"):
        assert lfm(f"rollout run --n_rollouts 3 --seed 7 --max_steps 6 --json {name}") == 0
    first, second = (json.loads((run / name).read_text())["episodes"] for name in ("a.json", "b.json"))
    assert [reproducible(row) for row in first] == [reproducible(row) for row in second]
    assert [row["seed"] for row in first] == [7, 8, 9]


def test_starts_of_its_demonstrations_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They may be rolled out, but measure nothing new; those of another environment are no starts of this one."""
    description = run / "run" / "checkpoints" / "step_40" / "policy.json"
    told = json.loads(description.read_text())
    told["dataset"] = {**(told["dataset"] or {}), "seed_ranges": [[0, 3], [8, 20]]}
    description.write_text(json.dumps(told))
    warning = "warning: its demonstrations were recorded on seeds 8 to 9: nothing new began there\n"
    for seed, seen, line in ((7, [[8, 9]], warning), (4, [], None)):
        assert lfm(f"rollout run --n_rollouts 3 --seed {seed} --max_steps 2 --json {seed}.json") == 0
        told = capsys.readouterr().err
        assert told.endswith(line) if line else "warning" not in told
        assert json.loads((run / f"{seed}.json").read_text())["seen_seeds"] == seen
    options = ["--observation", '{position: "state[0:2]", goal: "state[2:4]"}', "--success_key", "success"]
    other = f"rollout run --n_rollouts 3 --seed 8 --max_steps 2 --json other.json --env_id {PLAIN}".split()
    assert main([*other, *options]) == 0
    assert json.loads((run / "other.json").read_text())["seen_seeds"] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--json old.json", "--json old.json: exists already; choose another name or set --overwrite true"),
        ("--json a.json --video old.json", "--video old.json: exists already"),
        ("--json no/a.json", "--json no/a.json: folder no does not exist"),
        ("--video a.avi", "--video a.avi: must end in .mp4"),
        ("--n_rollouts 0", "--n_rollouts 0: must be 1 or more"),
        ("--n_procs 0", "--n_procs 0: must be 1 or more"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        ("--max_steps -3", "--max_steps -3: must be 1 or more"),
        (f"--env_id {PLAIN}", "run/checkpoints/step_40: does not fit environment Plain-v0: observation position"),
        ("--env_id lfm/Nothing-v0", "environment lfm/Nothing-v0:"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    run: Path, capsys: pytest.CaptureFixture[str], options: str, told: str
) -> None:
    (run / "old.json").write_text("old")
    assert lfm(f"rollout run {options}") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert files(run) == {"old.json"}
    assert (run / "old.json").read_text() == "old"


def test_an_existing_file_is_replaced_if_told(run: Path) -> None:
    (run / "old.json").write_text("old")
    assert lfm("rollout run --n_rollouts 1 --max_steps 2 --json old.json --overwrite true") == 0
    assert json.loads((run / "old.json").read_text())["n_rollouts"] == 1


def test_without_opengl_the_results_are_there_all_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = run / "run" / "checkpoints" / "step_40" / "policy.json"
    values = json.loads(description.read_text())
    values["spec"]["env_kwargs"] = {"has_gl": False}
    description.write_text(json.dumps(values))
    assert lfm("rollout run --n_rollouts 2 --max_steps 3 --json a.json --video a.mp4 --paths a.png") == 0
    assert files(run) == {"a.json", "a.png"}
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no video")]
    assert notes == ["no video: no OpenGL; apt install libegl1"]
