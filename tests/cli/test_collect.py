"""`lfm collect` end to end: what it prints and writes, and what it refuses before doing anything."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from lfm_policy.cli.collect import env_id_of_task
from lfm_policy.cli.main import main
from tests.helpers.point import FAILING, POINT


def lfm(command: str) -> int:
    """Exit code of a command line."""
    return main(command.split())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_written_and_summed_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lfm(f"collect --task {FAILING} --n 2 --seed 3 --out out.hdf5") == 0
    with h5py.File("out.hdf5") as file:
        lengths = [demo.attrs["num_samples"] for demo in file["data"].values()]
    told = capsys.readouterr().out
    assert told.startswith(f"out.hdf5: 2 demonstrations of {sum(lengths) / 2:.1f} steps on average, from 4 attempts; ")
    assert [path.name for path in folder.iterdir()] == ["out.hdf5"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--out old.hdf5", "--out old.hdf5: exists already; choose another name or set --overwrite true"),
        ("--out no/out.hdf5", "--out no/out.hdf5: folder no does not exist"),
        ("--out out.hdf5 --n 0", "--n 0: must be 1 or more"),
        ("--out out.hdf5 --n_procs -1", "--n_procs -1: must be 1 or more"),
        ("--out out.hdf5 --seed -1", "--seed -1: must be 0 or more"),
        ("--out out.hdf5 --valid_fraction 1.0", "--valid_fraction 1.0: must be 0 or more and below 1"),
        ("--out out.hdf5 --max_attempts 1 --n 2", "1 of 1 attempts succeeded, 2 wanted"),
        ("--out out.hdf5 --task Lyft", "environment lfm/Lyft-v0: "),
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
