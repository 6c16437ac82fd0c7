"""The executor over a Ray cluster, or over a Ray that is started on this machine for the purpose."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import tempfile
import textwrap
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeVar

from lfm_policy.evaluation.executor import THREAD_VARIABLES, Task, ignore, named, pickled, variables
from lfm_policy.flow.errors import LFMError

logger = logging.getLogger(__name__)
T = TypeVar("T")
# index and seed
Item = tuple[int, int]

# a cluster loses nodes, but a seed may itself kill its workers
MAX_LOSSES = 3
# sockets lie in Ray's folder, and their names may have no more than 107 characters: not below $TMPDIR
TEMPORARY = "/tmp"
CONNECTION_SECONDS = 10
# nothing is sent to Ray's makers, and a notice on their plans is not shown
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def ray_pool(
    start: Callable[[], Task[T]],
    seeds: Sequence[int],
    n_procs: int,
    address: str | None = None,
    arrived: Callable[[T], object] = ignore,
) -> Generator[T]:
    """The executor over `n_procs` Ray actors of one core and thread each; whoever is free takes the next seed.

    address: that of a running cluster, "auto" for this machine's; None takes the one that this process is connected
    to, or starts a Ray here that ends with the iterator. Every node needs this package and the files that `start`
    names. The seed of an actor that is lost (killed, its node gone) is run again on a new one.
    LFMError without Ray or cluster, and when a seed has lost more than three actors.
    """
    ray = _imported_ray()
    payload = pickled(start)
    results, next_index = dict[int, T](), 0
    with _connected(ray, n_procs, address), _crew(ray, payload, seeds, n_procs) as crew:
        while next_index < len(seeds):
            index, result = crew.next_result()
            results[index] = result
            arrived(result)
            while next_index in results:
                yield results.pop(next_index)
                next_index += 1


class Worker:
    """What an actor holds: a task, made for its first seed."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.task: Task[Any] | None = None

    def ready(self) -> tuple[None, None]:
        """Answers once the actor runs: as long as a cluster has no room for it, it shall hold no seed."""
        return None, None

    def run(self, seed: int) -> tuple[Any, LFMError | None]:
        """The task's result for a seed, or its error."""
        try:
            self.task = self.task or pickle.loads(self.payload)()
            return self.task(seed), None
        except Exception as error:
            failure = named(error, seed)
            # a cause does not survive pickling, a note does
            failure.add_note(traceback.format_exc())
            return None, failure


class Crew:
    """Actors that share the seeds out among them; each has one call under way."""

    def __init__(self, ray: ModuleType, payload: bytes, seeds: Sequence[int]) -> None:
        self.ray, self.payload = ray, payload
        # libraries read the variables when they are imported: inside the actor they would come too late
        threads = {"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")}
        self.kind = ray.remote(num_cpus=1, max_restarts=0, runtime_env=threads)(Worker)
        self.waiting = deque(enumerate(seeds))
        self.actors: set[Any] = set()
        self.calls: dict[Any, tuple[Any, Item | None]] = {}
        self.losses: Counter[Item | None] = Counter()

    def hire(self) -> None:
        """Ask for one more actor."""
        actor = self.kind.remote(self.payload)
        self.actors.add(actor)
        self.calls[actor.ready.remote()] = actor, None

    def dismiss(self, actor: Any) -> None:
        """End an actor, which makes room on the cluster."""
        self.actors.remove(actor)
        self.ray.kill(actor)

    def next_result(self) -> tuple[int, Any]:
        """Index of a seed and what came out; LFMError where that is one, or the seed has lost too many actors."""
        while True:
            (call, *_), _ = self.ray.wait(list(self.calls))
            actor, item = self.calls.pop(call)
            answer = self._answer(call, actor, item)
            if answer is None:
                continue
            result, error = answer
            if error is not None:
                raise error
            if self.waiting:
                following = self.waiting.popleft()
                self.calls[actor.run.remote(following[1])] = actor, following
            else:
                self.dismiss(actor)
            if item is not None:
                return item[0], result

    def _answer(self, call: Any, actor: Any, item: Item | None) -> tuple[Any, LFMError | None] | None:
        """What a call returned; None if its actor is lost: it is replaced, and its seed waits again."""
        errors = self.ray.exceptions
        lost = (errors.RayActorError, errors.NodeDiedError, errors.ObjectLostError, errors.OutOfMemoryError)
        try:
            return self.ray.get(call)
        except lost as error:
            self._count(item, error)
            logger.warning("%s: its worker was lost (%s), another one takes over", _place(item), type(error).__name__)
        except errors.RayError as error:
            raise LFMError(f"{_place(item)}: {_line(error)}") from error
        # unreachable is not dead: it must not go on with a seed that another one has
        self.dismiss(actor)
        self.hire()
        if item is not None:
            self.waiting.appendleft(item)
        return None

    def _count(self, item: Item | None, error: Exception) -> None:
        self.losses[item] += 1
        if self.losses[item] > MAX_LOSSES:
            raise LFMError(
                f"{_place(item)}: its worker was lost {self.losses[item]} times; if memory ran out, lower --n_procs "
                f"({_line(error)})"
            ) from error


@contextlib.contextmanager
def _crew(ray: ModuleType, payload: bytes, seeds: Sequence[int], count: int) -> Iterator[Crew]:
    """A crew of so many; all ended on leaving, however that comes about."""
    crew = Crew(ray, payload, seeds)
    try:
        for _ in range(count):
            crew.hire()
        yield crew
    finally:
        for actor in list(crew.actors):
            crew.dismiss(actor)


@contextlib.contextmanager
def _connected(ray: ModuleType, n_procs: int, address: str | None) -> Iterator[None]:
    """Connected with the cluster of `address`; what was begun for it is ended."""
    if address is None and ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with contextlib.ExitStack() as stack:
        if address is None:
            folder = tempfile.TemporaryDirectory(prefix="lfm_ray_", dir=TEMPORARY, ignore_cleanup_errors=True)
            options |= {"num_cpus": n_procs, "include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        stack.enter_context(_as_it_was(ray))
        try:
            _check_answers(address)
            with variables(QUIET):
                ray.init(address or "local", **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = f"--ray_address {address}: cannot be reached" if address else "--executor ray: does not start"
            raise LFMError(f"{where} ({_line(error)})") from error
        stack.callback(ray.shutdown)
        yield


def _check_answers(address: str | None) -> None:
    """OSError where nothing listens at HOST:PORT: Ray would try for a quarter of an hour."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), CONNECTION_SECONDS).close()


@contextlib.contextmanager
def _as_it_was(ray: ModuleType) -> Iterator[None]:
    """Take back what Ray leaves behind: a signal's handler, variables; and hold its notices back meanwhile."""
    handler, names = signal.getsignal(signal.SIGTERM), set(os.environ)
    # it prints them where results are printed, also with log_to_driver=False; ours go to stderr
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray._private.worker._worker_logs_enabled = True
        for name in set(os.environ) - names:
            del os.environ[name]
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _imported_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise LFMError(f"--executor ray: needs Ray ({error}); pip install 'lfm_policy[ray]'") from error
    return ray


def _place(item: Item | None) -> str:
    return "Ray" if item is None else f"seed {item[1]}"


def _line(error: Exception) -> str:
    """An error's kind, and the ends of what it tells: between them Ray puts tracebacks and advice."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    ends = dict.fromkeys([*lines[:1], *lines[-1:]])
    told = " … ".join(textwrap.shorten(line, 160, placeholder=" …") for line in ends)
    return f"{type(error).__name__}: {told}"
