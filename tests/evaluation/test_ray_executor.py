"""Ray keeps the contract of the other executors, and outlives its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from lfm_policy.cli.main import main
from lfm_policy.cli.sweep import sweep
from lfm_policy.evaluation import ray_executor
from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.executor import Executor, map_seeds
from lfm_policy.evaluation.ray_executor import ray_pool
from lfm_policy.evaluation.rollout import evaluate_policy
from lfm_policy.flow.errors import LFMError
from tests.evaluation.test_collect import contents
from tests.helpers.experts import SIDED
from tests.helpers.point import PLAIN, POINT
from tests.helpers.policies import noisy
from tests.helpers.tasks import Fails, Noting, Square
from tests.sweep.sweeps import config_of
from tests.sweep.test_sweep import files, without_more
from tests.sweep.test_sweep import rows as rows_of

MEASURED = ("policy_seconds", "env_seconds")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores that this process is connected to."""
    with tempfile.TemporaryDirectory(prefix="lfm_ray_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            "local",
            num_cpus=2,
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


def begun(notes: Path) -> list[tuple[int, int]]:
    """Process and seed of every call of `Noting`."""
    return [(int(pid), int(seed)) for pid, seed in map(str.split, notes.read_text().splitlines())]


def assert_gone(pids: set[int]) -> None:
    """These processes end, if not at once."""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} are left"
        time.sleep(0.05)


def test_the_seed_of_a_killed_worker_is_run_again_on_a_ray_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it is left: no process, folder, variable, handler or word but a line for each loss."""
    before, handler, folders = dict(os.environ), signal.getsignal(signal.SIGTERM), set(Path("/tmp").glob("lfm_ray_*"))
    notes, arrived, seeds = tmp_path / "notes", list[Any](), range(8)
    start = partial(Noting, notes, deaths=2)
    results = list(map_seeds(start, seeds, Executor("ray", 2), arrived.append))
    assert results == [(seed * seed, 1, "1") for seed in seeds], "in order, of one thread each"
    assert sorted(arrived) == results, "each arrives once"
    assert sorted(seed for _, seed in begun(notes)) == sorted([*seeds, 3, 3]), "no other seed is run twice"
    assert len({pid for pid, seed in begun(notes) if seed == 3}) == 3
    assert_gone({pid for pid, _ in begun(notes)})
    assert not ray.is_initialized()
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is handler
    assert set(Path("/tmp").glob("lfm_ray_*")) == folders
    assert capfd.readouterr() == ("", "")
    line = "seed 3: its worker was lost (ActorDiedError), another one takes over"
    assert [record.getMessage() for record in caplog.records] == [line, line]


@pytest.mark.usefixtures("cluster")
def test_rows_are_those_of_the_local_pool() -> None:
    """A policy whose noise decides over success."""
    seeds = range(100_000, 100_012)
    local, remote = (evaluate_policy(noisy(), seeds, where) for where in (1, Executor("ray", 2)))
    assert 0 < local.summary["n_success"] < len(seeds), "the comparison can fail"
    for rows in (local.episodes, remote.episodes):
        assert all(row.pop(key) > 0 for row in rows for key in MEASURED)
    assert remote.episodes == local.episodes
    assert (remote.context["executor"], remote.context["n_procs"]) == ("ray", 2)


@pytest.mark.usefixtures("cluster")
def test_a_file_is_that_of_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in {"local": "", "ray": "--executor ray"}.items():
        out = tmp_path / f"{name}.hdf5"
        assert main(f"collect --task {POINT} --expert {SIDED} --n 5 --out {out} {options}".split()) == 0
    assert contents(tmp_path / "ray.hdf5") == contents(tmp_path / "local.hdf5")


def in_order(file: Path) -> list[dict[str, Any]]:
    """Rows by seed: they are kept as they come."""
    return sorted(rows_of(file), key=lambda row: row["seed"])


@pytest.mark.usefixtures("cluster")
def test_a_sweep_is_that_of_processes(tmp_path: Path) -> None:
    """Weights of two trainings, and rows of their rollouts."""
    methods: dict[str, dict[str, Any]] = {"regression": {"method": "regression"}, "fm": {"method": "fm"}}
    data, found = tmp_path / "data.hdf5", []
    record_demonstrations(data, EnvSpec(PLAIN, success_key="success"), 6)
    for kind, n_procs in (("processes", 1), ("ray", 2)):
        folder = tmp_path / kind
        folder.mkdir()
        config = config_of(folder, data, methods=methods, executor=kind, n_procs=n_procs)
        assert sweep(config, progress=False) == 0
        out = folder / "out" / "point"
        weights = {name: content for name, content in files(out).items() if name.endswith("model.safetensors")}
        stores = {method: out / method / "seed_0" / "rows" / "own.jsonl" for method in methods}
        played = {name: [without_more(row) for row in in_order(file)] for name, file in stores.items()}
        found.append((weights, played))
    assert len(found[0][0]) == 2
    assert found[0] == found[1]


@pytest.mark.usefixtures("cluster")
def test_a_seed_that_kills_its_workers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "MAX_LOSSES", 1)
    notes = tmp_path / "notes"
    with pytest.raises(LFMError, match=r"seed 3: its worker was lost 2 times; .*lower --n_procs"):
        list(ray_pool(partial(Noting, notes, deaths=2), range(2, 8), 1))
    assert [seed for _, seed in begun(notes)] == [2, 3, 3]


@pytest.mark.usefixtures("cluster")
def test_an_exception_names_its_seed_and_ends_the_workers() -> None:
    with pytest.raises(LFMError) as caught:
        list(ray_pool(Fails, range(8), 1))
    assert str(caught.value) == "seed 3: ZeroDivisionError: no way"
    assert "tasks.py" in "".join(caught.value.__notes__), "the worker's traceback is kept"


@pytest.mark.usefixtures("cluster")
def test_closing_early_ends_the_workers_and_more_of_them_than_cores_wait(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with contextlib.closing(ray_pool(partial(Noting, notes), range(10**4), 3)) as results:
        assert [next(results) for _ in range(3)] == [(0, 1, "1"), (1, 1, "1"), (4, 1, "1")]
    assert_gone({pid for pid, _ in begun(notes)})
    assert ray.is_initialized(), "a connection that was there stays"


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LFMError, match="--ray_address here: needs --executor ray"):
        Executor("processes", 2, "here")
    with pytest.raises(LFMError, match="--n_procs 0: must be 1 or more"):
        Executor("ray", 0)
    with pytest.raises(LFMError, match=r"cannot be sent to another process .*no --executor ray"):
        list(ray_pool(lambda: Square(), range(2), 1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LFMError, match=rf"--ray_address {address}: cannot be reached \(ConnectionRefusedError: "):
            list(ray_pool(Square, range(2), 1, address))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LFMError, match=r"--executor ray: needs Ray .*pip install 'lfm_policy\[ray\]'"):
        list(ray_pool(Square, range(2), 1))
