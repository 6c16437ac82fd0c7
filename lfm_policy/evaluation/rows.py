"""Rows of rollouts kept in a file as they come, so that an interrupted comparison loses none and repeats none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.episode import Row
from lfm_policy.evaluation.executor import Executor, map_seeds
from lfm_policy.evaluation.fields import differences
from lfm_policy.evaluation.rollout import RolloutJob, RolloutTask, one_thread
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar

ANEW = "start anew with --overwrite true"


class RowStore:
    """A JSON-lines file: whose rows these are (`identity`), then a row each, on disk before `append` returns.

    A last line without its end (the process was killed while writing) is dropped. Nothing is written before the first
    `append`. Raises LFMError naming every field in which the file's identity differs, or a line that is damaged.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._file: FileIO | None = None
        content = self.path.read_bytes() if self.path.is_file() else b""
        self._size = len(content)
        self._complete = content.rfind(b"\n") + 1
        lines = [self._parsed(line, number) for number, line in enumerate(content[: self._complete].splitlines(), 1)]
        if lines:
            self._check(lines[0])
        self._rows: dict[int, Row] = {}
        for row in lines[1:]:
            self._rows.setdefault(row["seed"], row)

    def rows(self) -> dict[int, Row]:
        """Rows by seed, in the order in which they came."""
        return dict(self._rows)

    def append(self, row: Row) -> None:
        """Write a row; one of a seed that is there already changes nothing. LFMError if it cannot be written."""
        if row["seed"] in self._rows:
            return
        try:
            if self._file is None:
                self._file = self._opened()
            self._write(self._file, row)
        except OSError as error:
            raise LFMError(f"{self.path}: cannot be written ({error.strerror or error}); make room, go on") from error
        self._rows[row["seed"]] = row

    def close(self) -> None:
        """Let others write; `append` opens again."""
        if self._file is not None:
            self._size = os.fstat(self._file.fileno()).st_size
            self._file.close()
            self._file = None

    def _opened(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab", buffering=0)  # or what could not be written is tried again on closing
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unchanged = file.tell() == self._size
        except BlockingIOError:
            unchanged = False
        if not unchanged:
            file.close()
            raise LFMError(f"{self.path}: another process writes to it; wait until it has ended, then go on")
        file.truncate(self._complete)
        if not self._complete:
            self._write(file, {"identity": self.identity})
        return file

    def _write(self, file: FileIO, values: Mapping[str, Any]) -> None:
        line = json.dumps(values).encode() + b"\n"
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
        # where a write fails halfway, the next one begins here
        self._complete += len(line)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            values = json.loads(line)
            values["identity" if number == 1 else "seed"]
        except (ValueError, TypeError, KeyError) as error:
            raise LFMError(f"{self.path}: line {number} cannot be read; {ANEW}") from error
        return values

    def _check(self, head: dict[str, Any]) -> None:
        was, now = head["identity"], self.identity
        found = differences(_without_alien_packages(was, now), _without_alien_packages(now, was))
        if found:
            raise LFMError(f"{self.path}: holds rows of another kind ({'; '.join(found)}); {ANEW}")


def _without_alien_packages(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the versions of packages that the other does not know: they decided nothing of both."""
    if "versions" not in was:
        return dict(was)
    known = now.get("versions", {})
    return {**was, "versions": {name: version for name, version in was["versions"].items() if name in known}}


@dataclass(frozen=True)
class RowJob:
    """A rollout job whose task gives rows alone, with `chunk_seconds` (each chunk's) and `wall_seconds`."""

    job: RolloutJob

    def __call__(self) -> RowTask:
        return RowTask(self.job())


class RowTask:
    """Called with a seed, the row of its episode."""

    def __init__(self, task: RolloutTask) -> None:
        self.task = task

    def __call__(self, seed: int) -> Row:
        begin = time.perf_counter()
        episode = self.task(seed)
        wall = time.perf_counter() - begin
        chunks = [round(seconds, 6) for seconds in episode.latencies]
        return {**episode.row, "wall_seconds": round(wall, 6), "chunk_seconds": chunks}

    def close(self) -> None:
        self.task.close()


def roll_out(
    store: RowStore,
    job: RolloutJob,
    seeds: Sequence[int],
    n_procs: int | Executor = 1,
    progress: bool = False,
    name: str = "rollouts",
) -> list[Row]:
    """The rows of `seeds`, in their order; those that `store` does not hold are rolled out and kept as they come.

    Raises LFMError with the seed where an episode fails; the rows until then are kept.
    """
    missing = [seed for seed in seeds if seed not in store.rows()]
    if missing:
        bar = progress_bar(name, len(seeds), progress, done=len(seeds) - len(missing))
        results = map_seeds(RowJob(job), missing, n_procs, store.append)
        with one_thread(), bar, contextlib.closing(store), contextlib.closing(results):
            for _ in results:
                bar.update()
    rows = store.rows()
    return [rows[seed] for seed in seeds]
