"""`lfm collect` end to end: what it prints and writes, and what it refuses before doing anything."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest

from lfm_policy.cli.collect import env_id_of_task
from lfm_policy.cli.main import main
from tests.helpers.experts import SIDED
from tests.helpers.point import POINT


def lfm(command: str) -> int:
    """Exit code of a command line."""
    return main(command.split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "returncode", "told"),
    [
        ("from tests.helpers.experts import sided as make\n", 0, ""),
        ("def make(:\n", 2, "error: --expert own_expert:make: cannot be imported (SyntaxError: "),
        ("make = undefined\n", 2, "error: --expert own_expert:make: cannot be imported (NameError: "),
    ],
)
def test_an_expert_of_the_present_folder_is_found(folder: Path, code: str, returncode: int, told: str) -> None:
    """By the command as it is installed, whose own folder is another."""
    (folder / "own_expert.py").write_text(code)
    (folder / "envs").mkdir()  # hides none that is installed
    command = [Path(sys.executable).with_name("lfm"), "collect", "--task", POINT, "--expert", "own_expert:make"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    options: list[Any] = ["--n", "1", "--out", "out.hdf5"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == returncode
    assert done.stderr.splitlines()[-1:] == [] if not told else done.stderr.startswith(told)
    assert done.stderr.count("\n") == bool(told)


def test_a_file_is_written_and_summed_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure printed and written is counted here again from the file and the expert's rule."""
    assert lfm(f"collect --task {POINT} --expert {SIDED} --n 7 --seed 1 --out out.hdf5 --json out.json") == 0
    told = {line[:10].strip(): line[11:] for line in capsys.readouterr().out.splitlines()}
    report = json.loads((folder / "out.json").read_text())
    with h5py.File("out.hdf5") as file:
        demos = list(file["data"].values())
        seeds = [int(demo.attrs["seed"]) for demo in demos]
        lengths = [int(demo.attrs["num_samples"]) for demo in demos]
        sides = [json.loads(demo.attrs["strategy"])["side"] for demo in demos]
        failed = json.loads(file["data"].attrs["failed_seeds"])
        attempts = int(file["data"].attrs["attempts"])
    assert seeds == [1, 3, 4, 6, 7, 9, 10]
    assert (failed, attempts) == ([2, 5, 8], 10)
    assert sides == ["left" if seed % 2 else "right" for seed in seeds]
    assert told["success"].startswith("7 of 10 attempts = 0.700 (95 % 0.397 to 0.892)"), "Wilson's, by hand"
    assert told["failed"] == "seed 2, 5, 8"
    mean, sd, median = statistics.mean(lengths), statistics.pstdev(lengths), statistics.median(lengths)
    assert told["length"] == (
        f"{mean:.1f} steps on average, sd {sd:.1f}, {min(lengths)} to {max(lengths)}, median {median:.0f}"
    )
    assert told["strategy"] == "side: left 57%, right 43%"
    assert report["lengths"] == {
        "mean": pytest.approx(mean),
        "sd": pytest.approx(sd),
        "min": min(lengths),
        "median": median,
        "max": max(lengths),
    }
    assert report["strategies"] == {"side": {"left": 4, "right": 3}}
    assert (report["n_attempts"], report["n_success"], report["failed_seeds"]) == (10, 7, failed)
    rows = report["attempts"]
    assert [row["seed"] for row in rows] == list(range(1, 11))
    assert [row["seed"] for row in rows if row["success"]] == seeds
    assert [row["strategy"]["side"] for row in rows] == ["left" if row["seed"] % 2 else "right" for row in rows]
    cores = sum(row["core_seconds"] for row in rows)
    assert report["core_seconds_per_episode"] == pytest.approx(cores / 7, abs=1e-3)
    assert {"command", "versions", "hardware", "wall_seconds"} <= report.keys()
    assert {path.name for path in folder.iterdir()} == {"out.hdf5", "out.json"}


def test_inspect_shows_the_strategies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lfm(f"collect --task {POINT} --expert {SIDED} --n 3 --seed 0 --out out.hdf5") == 0
    assert lfm("inspect out.hdf5") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("strategy: side"))
    assert line.split(maxsplit=2)[2].strip() == "left 2, right 1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--out old.hdf5", "--out old.hdf5: exists already; choose another name or set --overwrite true"),
        ("--out no/out.hdf5", "--out no/out.hdf5: folder no does not exist"),
        ("--out out.hdf5 --json out.hdf5", "--json out.hdf5: is also --out"),
        ("--out out.hdf5 --n 0", "--n 0: must be 1 or more"),
        ("--out out.hdf5 --n_procs -1", "--n_procs -1: must be 1 or more"),
        ("--out out.hdf5 --seed -1", "--seed -1: must be 0 or more"),
        ("--out out.hdf5 --valid_fraction 1.0", "--valid_fraction 1.0: must be 0 or more and below 1"),
        ("--out out.hdf5 --task Lyft", "environment lfm/Lyft-v0: "),
        ("--out out.hdf5 --executor slurm", "executor: 'slurm' is not one of 'processes', 'ray'"),
        ("--out out.hdf5 --ray_address auto", "--ray_address auto: needs --executor ray"),
        ("", "out"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, told: str
) -> None:
    (folder / "old.hdf5").write_text("old")
    task = "" if "--task" in options else f"--task {POINT}"
    assert lfm(f"collect {task} {options}") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert [path.name for path in folder.iterdir()] == ["old.hdf5"]
    assert (folder / "old.hdf5").read_text() == "old"


def test_an_existing_file_is_replaced_if_told(folder: Path) -> None:
    (folder / "old.hdf5").write_text("old")
    assert lfm(f"collect --task {POINT} --n 1 --out old.hdf5 --overwrite true") == 0
    with h5py.File("old.hdf5") as file:
        assert list(file["data"]) == ["demo_0"]


@pytest.mark.parametrize(
    ("task", "env_id"),
    [("Lift", "lfm/Lift-v0"), ("lfm/Can-v0", "lfm/Can-v0"), ("CartPole-v1", "CartPole-v1"), (POINT, POINT)],
)
def test_a_task_is_a_name_or_an_id(task: str, env_id: str) -> None:
    assert env_id_of_task(task) == env_id
