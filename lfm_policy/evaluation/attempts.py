"""Finished attempts of a collection, kept on disk one by one so that an interruption loses none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from lfm_policy.data.writer import flush
from lfm_policy.evaluation.demonstration import Attempt, Demonstration
from lfm_policy.evaluation.fields import differences
from lfm_policy.flow.errors import LFMError

SETTINGS = "settings.json"
# what is no array, as JSON in the bytes of one
TOLD = "told"
# remedies, which a command with other options replaces by its own
RESUME = "--resume true goes on from there"
ANEW = "start anew with --overwrite true"
ATTEMPT = re.compile(r"(0|[1-9]\d*)\.npz")


class CannotGoOn(LFMError):
    """Going on in the same way would not help; the error tells what would."""


class Attempts:
    """A folder beside the file that is collected, `<file>.attempts`, with a file for each finished attempt.

    Each is written under another name, flushed to the disk and renamed: it is there as a whole or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = attempts_folder(path)

    def seeds(self) -> set[int]:
        """The seeds of the attempts that are there."""
        found = (ATTEMPT.fullmatch(name) for name in _names(self.folder))
        return {int(match[1]) for match in found if match}

    def write(self, demonstration: Demonstration) -> None:
        """Keep a finished attempt, with what was recorded of it if it succeeded."""
        arrays, told = _split(demonstration)
        with self._whole(f"{demonstration.seed}.npz") as file:
            np.savez(file, **{TOLD: np.frombuffer(json.dumps(told).encode(), np.uint8)}, **arrays)

    def read(self, seed: int) -> Demonstration:
        """An attempt as it was written; LFMError if its file is damaged."""
        with self._reading(seed) as arrays:
            told = json.loads(arrays[TOLD].tobytes())
            values = {name: arrays[name] for name in arrays if name != TOLD} | told.pop("values")
        return Demonstration(**told, datasets=_nested(values))

    def outcome(self, seed: int) -> Attempt:
        """What an attempt came to, without its recording."""
        with self._reading(seed) as arrays:
            told = json.loads(arrays[TOLD].tobytes())
        return Attempt(**{field.name: told[field.name] for field in fields(Attempt) if field.name in told})

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """LFMError naming every setting in which the attempts that are there were made with another."""
        try:
            old = json.loads((self.folder / SETTINGS).read_text())
        except (OSError, ValueError) as error:
            raise LFMError(f"{self.folder / SETTINGS}: cannot be read ({error}); {ANEW}") from error
        changed = differences(old, json.loads(json.dumps(settings)))
        if changed:
            raise LFMError(
                f"{self.folder}: cannot resume with other settings ({'; '.join(changed)}); undo that, or {ANEW}"
            )

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Note with which settings the attempts are made."""
        with self._whole(SETTINGS) as file:
            file.write(json.dumps(settings).encode())

    def clear(self) -> None:
        """Remove all that a collection has written; what else lies in the folder stays."""
        temporary = re.escape(self.path.name) + r"\.tmp-\d+"
        own = re.compile(rf"({ATTEMPT.pattern}|{re.escape(SETTINGS)})(\.partial)?|{temporary}")
        for name in filter(own.fullmatch, _names(self.folder)):
            (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[IO[bytes]]:
        """A file that is in the folder once it is wholly on the disk."""
        temporary = self.folder / f"{name}.partial"
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / name)
            flush(self.folder)
        except OSError as error:
            raise LFMError(f"{self.folder}: cannot be written ({error.strerror or error}); make room there") from error

    @contextlib.contextmanager
    def _reading(self, seed: int) -> Iterator[Any]:
        file = self.folder / f"{seed}.npz"
        try:
            with np.load(file) as arrays:
                yield arrays
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LFMError(f"{file}: is damaged ({error}); delete it, and it is made anew") from error


@contextlib.contextmanager
def keeping_attempts(path: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> Iterator[Attempts]:
    """The attempts at collecting `path`; removed if the block ends well or none was finished, else kept.

    settings: what decides an attempt beside its seed. Attempts that are there are used with `resume`, if they were
    made with the same settings, and removed with `overwrite` alone. LFMError where they are neither, and while
    another process collects the same file; an LFMError of the block names the attempts that are kept, and how to go
    on where that helps.
    """
    attempts = Attempts(path)
    with _locked(attempts.folder):
        try:
            _prepare(attempts, settings, resume, overwrite)
            with _naming_what_is_kept(attempts):
                yield attempts
            attempts.clear()
        finally:
            if not attempts.seeds():
                attempts.clear()
                with contextlib.suppress(OSError):  # there are files of others in it, or it is gone
                    attempts.folder.rmdir()


def attempts_folder(path: Path) -> Path:
    """Where the finished attempts at collecting `path` are kept meanwhile."""
    return path.with_name(f"{path.name}.attempts")


def _prepare(attempts: Attempts, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    found = len(attempts.seeds())
    if found and resume:
        attempts.check_settings(settings)
        return
    if found and not overwrite:
        raise LFMError(
            f"{attempts.folder}: has {found} finished attempts of an interrupted collection; add --resume true to "
            "go on from there, or --overwrite true to start anew"
        )
    attempts.clear()
    attempts.write_settings(settings)


@contextlib.contextmanager
def _naming_what_is_kept(attempts: Attempts) -> Iterator[None]:
    try:
        yield
    except LFMError as error:
        kept = len(attempts.seeds())
        if not kept:
            raise
        how = "" if isinstance(error, CannotGoOn) else f", {RESUME}"
        raise LFMError(f"{error}; {kept} finished attempts are kept{how}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone; the lock ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise LFMError(f"{folder}: cannot be made ({error.strerror or error}); choose another place") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LFMError(f"{folder}: another process is collecting there; let it end, or choose another name") from error
    except OSError as error:
        raise LFMError(f"{folder}: cannot be locked ({error.strerror or error}); choose another place") from error


def _names(folder: Path) -> list[str]:
    """Names of the files in a folder, which may be gone."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []


def _split(demonstration: Demonstration) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, `group/key` within a group, and the rest."""
    told = {field.name: getattr(demonstration, field.name) for field in fields(demonstration)}
    flat = _flat(told.pop("datasets"))
    arrays = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
    return arrays, {**told, "values": {name: value for name, value in flat.items() if name not in arrays}}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}/{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, slash, key = name.partition("/")
        if slash:
            nested.setdefault(group, {})[key] = value
        else:
            nested[name] = value
    return nested
