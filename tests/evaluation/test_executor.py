"""Both executors keep one contract; processes end however a run does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lfm_policy.evaluation.executor import in_process, map_seeds, process_pool
from lfm_policy.flow.errors import LFMError
from tests.helpers.tasks import Dies, Fails, Square, Threads

ROOT = Path(__file__).parents[2]


def test_results_come_in_the_order_of_the_seeds() -> None:
    assert list(map_seeds(Square, range(9), 1)) == [seed * seed for seed in range(9)]
    # more processes than seeds are not started
    assert list(map_seeds(Square, range(2, 3), 8)) == [4]


def test_workers_have_one_thread_each_and_the_parent_keeps_its_own() -> None:
    before, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    assert list(process_pool(Threads, range(20), 2)) == [(seed * seed, 1, "1") for seed in range(20)]
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGINT) is handler
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("n_procs", [1, 2])
def test_an_exception_names_its_seed_in_one_line(n_procs: int) -> None:
    with pytest.raises(LFMError) as caught:
        list(map_seeds(Fails, range(8), n_procs))
    assert str(caught.value) == "seed 3: ZeroDivisionError: no way"
    if n_procs > 1:
        assert "tasks.py" in "".join(caught.value.__notes__), "the worker's traceback is kept"
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_names_its_seed() -> None:
    with pytest.raises(LFMError, match=r"seed 3: its worker process died \(exit code 7\).*--n_procs"):
        list(process_pool(Dies, range(8), 2))
    assert not multiprocessing.active_children()


def test_closing_early_stops_the_workers() -> None:
    with contextlib.closing(process_pool(Square, range(10**6), 2)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_closing_early_closes_the_task_in_process() -> None:
    closed = []

    class Noted(Square):
        def close(self) -> None:
            closed.append(True)

    with contextlib.closing(in_process(Noted, range(5))) as results:
        next(results)
    assert closed == [True]


def test_what_cannot_be_sent_to_a_process_is_told() -> None:
    with pytest.raises(LFMError, match="--n_procs: cannot be sent to another process"):
        list(process_pool(lambda: Square(), range(2), 2))


def test_no_processes_is_refused() -> None:
    with pytest.raises(LFMError, match="--n_procs 0"):
        map_seeds(Square, range(2), 0)


CHILD = """
import multiprocessing, sys, threading, time
from lfm_policy.evaluation import executor
from tests.helpers.tasks import Sleeps
if __name__ == "__main__":
    results = executor.process_pool(Sleeps, range(4), 2)
    def tell():
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        time.sleep(1.5)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    threading.Thread(target=tell, daemon=True).start()
    try:
        list(results)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_their_parent(tmp_path: Path, how: int, code: int) -> None:
    """Ctrl-C reaches the whole group and prints nothing; workers of a killed parent notice by their pipe."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        os.kill(process.pid, how)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors == ""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


POOL_WITH_BARS = """
from lfm_policy.evaluation.executor import process_pool
from tests.helpers.tasks import Bars
if __name__ == "__main__":
    print(list(process_pool(Bars, range(4), 2)))
"""


def test_workers_with_bars_leave_nothing_behind(tmp_path: Path) -> None:
    """Python warns at its end of semaphores that ended workers have left."""
    script = tmp_path / "bars.py"
    script.write_text(POOL_WITH_BARS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "[0, 1, 2, 3]\n", "")
