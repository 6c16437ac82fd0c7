"""Runs of many jobs go on where they were broken off, and their rows stand in the jobs' order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runner import run_jobs
from tests.benchmarks.jobs import square


class Runs:
    """A folder with the rows' file and the log of what was computed."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log = folder / "made" / "rows.json", folder / "log"

    def __call__(self, *numbers: int) -> list[dict[str, Any]]:
        jobs = [{"number": number, "log": str(self.log)} for number in numbers]
        return run_jobs(self.path, square, jobs, {"seeds": [0]}, n_procs=1)

    @property
    def computed(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]

    @property
    def written(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_no_row_is_made_twice_and_rows_stand_in_the_jobs_order(runs: Runs) -> None:
    runs(3, 1)
    rows = runs(1, 2, 3)  # another order, and a job in between
    assert runs.computed == [3, 1, 2]
    assert [row["square"] for row in rows] == [1, 4, 9]
    assert runs.written["rows"] == rows
    assert runs.written["seeds"] == [0]
    assert {"command", "versions", "hardware", "wall_seconds"} <= set(runs.written)
    assert all({"wall_seconds", "cpu_seconds"} <= set(row) for row in rows)


def test_a_changed_job_is_run_anew_and_its_old_row_dropped(runs: Runs) -> None:
    runs(1, 2)
    rows = runs(1, 5)
    assert runs.computed == [1, 2, 5]
    assert [row["number"] for row in rows] == [1, 5]
    assert runs.written["rows"] == rows


def test_rows_that_came_before_a_failure_are_kept(runs: Runs) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        runs(2, -1, 3)
    assert [row["number"] for row in runs.written["rows"]] == [2]
    assert [row["square"] for row in runs(2, 3)] == [4, 9]
    assert runs.computed.count(2) == 1
