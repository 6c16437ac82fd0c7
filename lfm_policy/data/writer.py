"""Recording demonstrations in robomimic's HDF5 layout, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike

from lfm_policy.data.robomimic import split_episodes
from lfm_policy.flow.errors import LFMError

# HDF5's cache of metadata holds so much at most, and the process dies where there is no room for it as a file is closed
HELD_BACK = 2**25
# of file systems on which no room can be set aside, where the C library does not write it instead
CANNOT_TELL = (errno.EOPNOTSUPP, errno.EINVAL)


class UnfitEpisode(LFMError):
    """An episode that no dataset can hold, whatever the disk."""


class DatasetWriter:
    """Writes a robomimic dataset beside `path` and renames it there when the `with` block ends well.

    An exception (Ctrl-C too) removes what was written; an existing `path` is refused unless `overwrite`.
    `env_args` is robomimic's {"env_name", "type", "env_version", "env_kwargs"}; {} for a robot of one's own. At
    the end the episodes are split into `mask/train` and `mask/valid`, `valid_fraction` of them (seeded) to
    validate; 0, and a single episode, write none. `masks`, filter key to episode names, are written instead if
    there are any. `attrs` are further attributes of `data`. `folder`, of the same disk, holds the file until it is
    whole.
    """

    def __init__(
        self,
        path: str | Path,
        env_args: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        valid_fraction: float = 0.1,
        seed: int = 0,
        masks: Mapping[str, Sequence[str]] | None = None,
        attrs: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.n_episodes = 0
        self.n_frames = 0
        self._overwrite = overwrite
        self._valid_fraction = valid_fraction
        self._seed = seed
        self._masks = masks or {}
        self._dims: dict[str, tuple[int, ...]] = {}
        self._attrs = attrs or {}
        refuse_existing(self.path, overwrite)
        self._env_args = json.dumps(dict(env_args or {}), indent=4)
        self._temporary = (folder or self.path.parent) / f"{self.path.name}.tmp-{os.getpid()}"
        self._file: h5py.File | None = None

    def __enter__(self) -> Self:
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._temporary, "w")
            self._file.create_group("data")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._writing():
                    self._finish()
        finally:
            # gone after a rename; still there after any failure
            if self._file is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    self._file.close()
            self._temporary.unlink(missing_ok=True)

    def add_episode(
        self,
        obs: Mapping[str, ArrayLike],
        actions: ArrayLike,
        rewards: ArrayLike | None = None,
        dones: ArrayLike | None = None,
        *,
        states: ArrayLike | None = None,
        model_file: str | None = None,
        next_obs: Mapping[str, ArrayLike] | None = None,
        final_obs: Mapping[str, ArrayLike] | None = None,
        attrs: Mapping[str, Any] | None = None,
        **datasets: ArrayLike,
    ) -> str:
        """Append one episode of T steps and return its name, `demo_<i>`.

        obs: key to (T, d), read before the action of the same step; rewards and dones (T,) after it, by
        default 1 and true in the last step, as of a demonstration that ends in success.
        `next_obs` is obs moved by one step if `final_obs` (key to (d,), read after the last action) is given
        instead. Further keywords are datasets of T rows (`actions_abs`); `attrs` (seed, initial_joint) go to
        the group.
        Raises UnfitEpisode on rows that do not fit, widths unlike the first episode's, NaN, and attributes that
        HDF5 cannot store.
        """
        if next_obs is None and final_obs is not None:
            next_obs = {key: _moved(values, final_obs[key]) for key, values in obs.items()}
        values = {f"obs/{key}": _numbers(item) for key, item in obs.items()}
        values |= {f"next_obs/{key}": _numbers(item) for key, item in (next_obs or {}).items()}
        last = np.arange(len(np.asarray(actions))) == len(np.asarray(actions)) - 1
        values |= {"actions": _numbers(actions), "rewards": _numbers(last if rewards is None else rewards)}
        values["dones"] = np.asarray(last if dones is None else dones).astype(np.int64)
        values |= {key: _numbers(item) for key, item in datasets.items()}
        if states is not None:
            values["states"] = _numbers(states)
        name = f"demo_{self.n_episodes}"
        self._check(name, values)
        with self._writing():
            self._write(name, values, {} if model_file is None else {"model_file": model_file}, attrs or {})
        self.n_episodes += 1
        self.n_frames += len(values["actions"])
        return name

    def _write(self, name: str, values: Mapping[str, np.ndarray], *attrs: Mapping[str, Any]) -> None:
        file = self._open_file()
        self._check_room(sum(item.nbytes for item in values.values()))
        group = file["data"].create_group(name)
        for key, item in values.items():
            group.create_dataset(key, data=item)
        group.attrs["num_samples"] = len(values["actions"])
        try:
            for key, value in itertools.chain(*(mapping.items() for mapping in attrs)):
                self._set(group, key, value)
        except UnfitEpisode:
            del file["data"][name]
            raise

    def _set(self, group: h5py.Group, key: str, value: Any) -> None:
        try:
            group.attrs[key] = value
        # OSError, RuntimeError: too long for HDF5
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            told = f"attribute {key} of {group.name} cannot be stored ({' '.join(str(error).split())})"
            raise UnfitEpisode(f"{self.path}: {told}; give numbers or text, shorter than 64 kB") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk or a folder without permission, told in one line."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            told = " ".join(str(error).split())
            raise LFMError(f"{self.path}: cannot be written ({told}); choose another place") from error

    def _check_room(self, n_bytes: int) -> None:
        """LFMError where the file cannot grow by so much and what HDF5 holds back."""
        needed = n_bytes + HELD_BACK
        try:
            _try_to_grow(self._temporary, needed)
        except OSError as error:
            if error.errno in CANNOT_TELL:
                return
            told = f"{error.strerror}: {needed / 1e6:.0f} MB more are needed"
            raise LFMError(f"{self.path}: cannot be written ({told}); make room or choose another place") from error

    def _open_file(self) -> h5py.File:
        if self._file is None or not self._file:
            raise LFMError(f"{self.path}: the writer is not open; use it in a `with` block")
        return self._file

    def _check(self, name: str, values: Mapping[str, np.ndarray]) -> None:
        length = len(values["actions"])
        for key, item in values.items():
            if not length or len(item) != length:
                raise UnfitEpisode(f"{self.path}: {name}/{key} has {len(item)} rows, actions {length}")
            if (step := not_finite(item)) is not None:
                raise UnfitEpisode(f"{self.path}: {name}/{key} is NaN or infinite at step {step}; not recorded")
        dims = {key: item.shape[1:] for key, item in values.items()}
        self._dims = self._dims or dims
        for key in sorted(dims.keys() | self._dims.keys()):
            if dims.get(key) != self._dims.get(key):
                told = f"rows of {dims.get(key)}, the first episode of {self._dims.get(key)}"
                raise UnfitEpisode(f"{self.path}: {name}/{key} has {told}; all episodes need the same")

    def _finish(self) -> None:
        file = self._open_file()
        if not self.n_episodes:
            raise LFMError(f"{self.path}: no episode was recorded, nothing written")
        file["data"].attrs["total"] = self.n_frames
        file["data"].attrs["env_args"] = self._env_args
        for key, value in self._attrs.items():
            self._set(file["data"], key, value)
        for key, chosen in (self._masks or self._split()).items():
            if chosen:  # one of nothing could not be read
                file.create_dataset(f"mask/{key}", data=np.array(chosen, dtype="S"))
        file.close()
        flush(self._temporary)
        refuse_existing(self.path, self._overwrite)
        os.replace(self._temporary, self.path)
        with contextlib.suppress(OSError):  # some file systems have folders that cannot be flushed
            flush(self.path.parent)

    def _split(self) -> dict[str, list[str]]:
        if not self._valid_fraction:
            return {}
        names = [f"demo_{index}" for index in range(self.n_episodes)]
        train, valid = split_episodes(names, self._valid_fraction, self._seed)
        return {"train": train, "valid": valid} if valid else {}


def not_finite(values: np.ndarray) -> int | None:
    """The first row of (T, …) with a NaN or an infinity, None without one."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return None
    return int(np.argwhere(~np.isfinite(values))[0, 0])


def flush(path: Path) -> None:
    """Have a file, or which names a folder has, on the disk: a power cut would take what is only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """LFMError for a file that is there and may not be replaced."""
    if path.exists() and not overwrite:
        raise LFMError(f"{path}: exists already; choose another name or pass --overwrite true")


def _try_to_grow(path: Path, n_bytes: int) -> None:
    """OSError where a file may not grow by so much: full disks, quotas, limits. It stays as long as it is."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        if shutil.disk_usage(path.parent).free < n_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    with path.open("r+b") as file:
        size = path.stat().st_size
        try:
            os.posix_fallocate(file.fileno(), size, n_bytes)
        finally:
            os.truncate(path, size)


def _numbers(values: ArrayLike) -> np.ndarray:
    """float64 as robomimic writes it; images stay bytes."""
    array = np.asarray(values)
    return array if array.dtype == np.uint8 else array.astype(np.float64)


def _moved(values: ArrayLike, last: ArrayLike) -> np.ndarray:
    return np.concatenate([np.asarray(values)[1:], np.asarray(last)[None]])
