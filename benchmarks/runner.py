"""Many runs in processes of one thread each, whose rows are written as they come: what is broken off goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.files import write_json
from lfm_policy.provenance import provenance

Job = Mapping[str, Any]
Run = Callable[..., dict[str, Any]]


def run_jobs(
    path: Path,
    run: Run,
    jobs: Sequence[Job],
    facts: Mapping[str, Any],
    n_procs: int = 2,
    keep: bool = False,
    places: Mapping[str, Any] | None = None,
) -> list[dict]:
    """Rows {**job, **run(**job), wall_seconds} of all jobs, kept in the JSON file `path`; no row is made twice.

    `run` must be importable (a module's own function). Rows of jobs that are no longer asked for are dropped, unless
    `keep` says that these jobs are only some of them. `places` are further arguments of `run`, of this machine alone,
    such as paths: they stand in no row and do not tell jobs apart.
    """
    rows = [row for row in _rows(path) if keep or any(_same(job, row) for job in jobs)]
    left = [job for job in jobs if not any(_same(job, row) for row in rows)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(n_procs, _one_thread) as pool:
        for row in pool.imap_unordered(_Timed(partial(run, **(places or {}))), left):
            rows.append(row)
            _write(path, rows, jobs, facts)
            print(json.dumps(row), flush=True)
    _write(path, rows, jobs, facts)
    return rows


class _Timed:
    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, job: Job) -> dict[str, Any]:
        begin, cpu = time.perf_counter(), time.process_time()
        found = self.run(**job)
        seconds = {"wall_seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        return {**job, **found, **{name: round(value, 1) for name, value in seconds.items()}}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def _same(job: Job, row: Mapping[str, Any]) -> bool:
    return all(name in row and row[name] == json.loads(json.dumps(value)) for name, value in job.items())


def _write(path: Path, rows: list[dict[str, Any]], jobs: Sequence[Job], facts: Mapping[str, Any]) -> None:
    order = {json.dumps(job, sort_keys=True): i for i, job in enumerate(jobs)}
    names = set().union(*(job.keys() for job in jobs))
    rows.sort(key=lambda row: order.get(json.dumps({n: row[n] for n in names if n in row}, sort_keys=True), len(order)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if "rows" in facts:
        raise ValueError("facts: `rows` is the table's own name")
    seconds = {"wall_seconds": round(sum(row["wall_seconds"] for row in rows), 1)}
    write_json(path, {**provenance(), **facts, **seconds, "rows": rows})


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the processes that compute are started
