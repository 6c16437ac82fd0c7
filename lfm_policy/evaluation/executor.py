"""One task over many seeds: in this process, several, or a Ray cluster; results come in the order of the seeds.

A pool of processes of our own rather than a library's, for three things those do not give: a process that dies (out of
memory) is told with the seed it had, workers end when their parent does, and stopping them at any moment
cannot hang, since every worker has its own pipe and no lock is shared.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol, TypeVar, get_args

from lfm_policy.flow.errors import LFMError, one_line

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Kind = Literal["processes", "ray"]
# a worker that is asked to end may be at work that it does not leave at once
ENDING_SECONDS = 10
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerDied(LFMError):
    """A worker's end, with the seed that it had."""

    def __init__(self, seed: int, exit_code: int | None) -> None:
        self.seed = seed
        self.told = f"its worker process died (exit code {exit_code}); if memory ran out, lower --n_procs"
        super().__init__(f"seed {seed}: {self.told}")


class Task(Protocol[T_co]):
    """What one process holds (a policy, an environment), and does for one seed."""

    def __call__(self, seed: int) -> T_co: ...

    def close(self) -> None:
        """Let go of the environment."""
        ...


@dataclass(frozen=True)
class Executor:
    """Where tasks run: `n_procs` processes of this machine, or as many workers of a Ray cluster.

    address: that of a running cluster; None starts a Ray on this machine. LFMError on values that do not fit.
    """

    kind: Kind = "processes"
    n_procs: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.n_procs < 1:
            raise LFMError(f"--n_procs {self.n_procs}: must be 1 or more")
        if self.kind not in get_args(Kind):
            raise LFMError(f"--executor {self.kind}: must be one of {', '.join(get_args(Kind))}")
        if self.address is not None and self.kind != "ray":
            raise LFMError(f"--ray_address {self.address}: needs --executor ray")

    @classmethod
    def of(cls, n_procs: int | Executor) -> Executor:
        """An executor as it is; a number is that of processes."""
        return n_procs if isinstance(n_procs, Executor) else cls(n_procs=n_procs)

    @property
    def in_process(self) -> bool:
        """Whether it starts nothing."""
        return self.kind == "processes" and self.n_procs == 1


def ignore(result: object) -> None:
    """What is done with a result that arrives, unless somebody asks for more."""


def map_seeds(
    start: Callable[[], Task[T]],
    seeds: Sequence[int],
    n_procs: int | Executor,
    arrived: Callable[[T], object] = ignore,
) -> Generator[T]:
    """`start()(seed)` for every seed, in the order of the seeds.

    n_procs: processes, or an `Executor`. Each process calls `start` once; beyond one process it and the results
    must pickle. `arrived` is called with each result once it is there, whatever its place in the order. Closing
    the iterator before its end stops the workers. An exception becomes an LFMError that names the seed.
    """
    executor = Executor.of(n_procs)
    count = min(executor.n_procs, len(seeds))
    if executor.kind == "ray" and seeds:
        from lfm_policy.evaluation.ray_executor import ray_pool

        return ray_pool(start, seeds, count, executor.address, arrived)
    return process_pool(start, seeds, count, arrived) if count > 1 else in_process(start, seeds, arrived)


def in_process(
    start: Callable[[], Task[T]], seeds: Sequence[int], arrived: Callable[[T], object] = ignore
) -> Generator[T]:
    """The executor without processes."""
    task: Task[T] | None = None
    try:
        for seed in seeds:
            try:
                task = task or start()
                result = task(seed)
            except Exception as error:
                raise named(error, seed) from error
            arrived(result)
            yield result
    finally:
        if task is not None:
            task.close()


def process_pool(
    start: Callable[[], Task[T]], seeds: Sequence[int], n_procs: int, arrived: Callable[[T], object] = ignore
) -> Generator[T]:
    """The executor over spawned processes of one BLAS thread each; whoever is free takes the next seed."""
    remaining = enumerate(seeds)
    given: dict[Connection, tuple[int, int]] = {}
    results: dict[int, T] = {}
    next_index = 0

    def give(connection: Connection) -> None:
        for index, seed in remaining:
            given[connection] = (index, seed)
            with contextlib.suppress(BrokenPipeError):  # who receives from it is told that it has died
                connection.send(seed)
            return

    with _workers(start, n_procs) as workers:
        for connection in workers:
            give(connection)
        while given:
            for ready in wait(list(given)):
                assert isinstance(ready, Connection)
                index, seed = given.pop(ready)
                results[index] = _receive(ready, workers[ready], seed)
                arrived(results[index])
                give(ready)
            while next_index in results:
                yield results.pop(next_index)
                next_index += 1


@contextmanager
def _workers(start: Callable[[], Any], count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """`count` processes that wait for seeds; all ended on leaving, however that comes about."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    payload = pickled(start)
    try:
        with _worker_environment():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(target=_work, args=(payload, theirs), daemon=True)
                process.start()
                # with our copy closed, reading tells when the worker has died
                theirs.close()
                workers[ours] = process
        yield workers
    finally:
        for process in workers.values():
            process.terminate()
        for connection, process in workers.items():
            connection.close()
            process.join(ENDING_SECONDS)
            process.kill()  # what does not end by itself; no more than a signal to one that has
            process.join()


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Processes started herein have one BLAS thread and are deaf to Ctrl-C.

    Both are inherited, because inside the worker they would come too late: libraries read the variables when
    they are imported, and a Ctrl-C during those imports prints a traceback for each worker.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        with variables(dict.fromkeys(THREAD_VARIABLES, "1")):
            yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment herein."""
    saved = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def pickled(start: Callable[[], Any]) -> bytes:
    """What another process makes `start` of; LFMError if it cannot be sent."""
    # by value: torch's pickler for processes passes memory on, and that of a generator's state is gone by then
    try:
        return pickle.dumps(start)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LFMError(
            f"--n_procs: cannot be sent to another process ({error}); use 1, and no --executor ray"
        ) from error


def _work(payload: bytes, connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task: Task[Any] | None = None
    try:
        while True:
            seed = connection.recv()
            result, failure = None, None
            try:
                task = task or pickle.loads(payload)()
                result = task(seed)
            except Exception as error:
                failure = named(error, seed)
                # a cause does not survive pickling, a note does
                failure.add_note(traceback.format_exc())
            connection.send((result, failure))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # the parent is gone, and the thread that watches for it was slower
        return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _receive(connection: Connection, process: BaseProcess, seed: int) -> Any:
    try:
        result, error = connection.recv()
    except (EOFError, ConnectionResetError) as died:
        process.join(5)
        raise WorkerDied(seed, process.exitcode) from died
    if error is not None:
        raise error
    return result


def named(error: Exception, seed: int) -> LFMError:
    """The error as one line that names the seed; an LFMError stays as it is."""
    if isinstance(error, LFMError):
        return error
    return LFMError(f"seed {seed}: {one_line(error)}")
