"""Episodes laid end to end: in memory as one tensor, or read window by window from their file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from lfm_policy.data.action_space import ActionSpace
from lfm_policy.data.chunks import chunk_indices
from lfm_policy.data.rotation import actions_to_rotation_6d
from lfm_policy.flow.errors import LFMError


@dataclass(frozen=True, eq=False)
class Demonstrations(ABC):
    """Episodes laid end to end; a frame has D observation numbers (in key order), Da action numbers.

    `action_key` is the dataset that the actions come from.
    """

    path: Path
    names: tuple[str, ...]
    lengths: tuple[int, ...]
    obs_keys: tuple[str, ...]
    obs_dims: tuple[int, ...]
    env_args: dict[str, Any]
    action_space: ActionSpace
    action_key: str

    @property
    def n_frames(self) -> int:
        return sum(self.lengths)

    def windows(self, n_obs_steps: int, horizon: int, pad_before: int, pad_after: int) -> Tensor:
        """Frame indices (M, horizon) of every training window; see `chunk_indices`."""
        return chunk_indices(self.lengths, n_obs_steps, horizon, pad_before, pad_after)

    @abstractmethod
    def gather(self, windows: Tensor, n_obs_steps: int) -> tuple[Tensor, Tensor]:
        """Windows (B, Tp) of frame indices to observations (B, To, D) and actions (B, Tp, Da)."""

    @abstractmethod
    def frames(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Observations (T, D) and actions (T, Da) of one episode after the other."""


@dataclass(frozen=True, eq=False)
class MemoryDemonstrations(Demonstrations):
    """All in memory: `observations` (frames, D) and `actions` (frames, Da)."""

    observations: Tensor
    actions: Tensor

    def gather(self, windows: Tensor, n_obs_steps: int) -> tuple[Tensor, Tensor]:
        history = windows[:, :n_obs_steps]
        observations = self.observations.index_select(0, history.reshape(-1))
        actions = self.actions.index_select(0, windows.reshape(-1))
        return observations.view(*history.shape, -1), actions.view(*windows.shape, -1)

    def frames(self) -> Iterator[tuple[Tensor, Tensor]]:
        sizes = list(self.lengths)
        yield from zip(self.observations.split(sizes), self.actions.split(sizes), strict=True)

    def to(self, device: torch.device | str) -> MemoryDemonstrations:
        """The same with both tensors on `device`; windows must then be there as well."""
        values = {name: getattr(self, name) for name in Demonstrations.__dataclass_fields__}
        return MemoryDemonstrations(
            **values, observations=self.observations.to(device), actions=self.actions.to(device)
        )


@dataclass(frozen=True, eq=False)
class LazyDemonstrations(Demonstrations):
    """Read from the file when asked for; each process opens its own handle, so workers may share it."""

    _handles: dict[int, h5py.File] = field(default_factory=dict, repr=False)

    def gather(self, windows: Tensor, n_obs_steps: int) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor(self.lengths)
        first_frame = lengths.cumsum(0) - lengths
        episode = torch.searchsorted(first_frame, windows[:, 0].contiguous(), right=True) - 1
        observations = torch.empty(len(windows), n_obs_steps, sum(self.obs_dims))
        actions = torch.empty(*windows.shape, self.action_space.dim)
        for index in episode.unique().tolist():
            rows = (episode == index).nonzero().flatten()
            steps = windows[rows] - first_frame[index]
            low, high = int(steps.min()), int(steps.max()) + 1
            block = self._read(index, low, high)
            observations[rows] = block[0][steps[:, :n_obs_steps] - low]
            actions[rows] = block[1][steps - low]
        return observations, actions

    def frames(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, length in enumerate(self.lengths):
            yield self._read(index, 0, length)

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        file = self._handles.pop(os.getpid(), None)
        if file is not None:
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def _read(self, index: int, low: int, high: int) -> tuple[Tensor, Tensor]:
        # a handle inherited through fork shares its file position with the parent: one handle a process
        file = self._handles.get(os.getpid())
        try:
            if file is None:
                file = self._handles[os.getpid()] = h5py.File(self.path, "r")
            demo = file["data"][self.names[index]]
            observations = np.empty((high - low, sum(self.obs_dims)), dtype=np.float32)
            read_observations(demo, self.obs_keys, low, high, observations)
            return torch.from_numpy(observations), read_actions(demo, self.action_key, self.action_space, low, high)
        except (OSError, RuntimeError, KeyError) as error:
            raise LFMError(f"{self.path}: cannot be read any more ({error}); copy or record it anew") from error


def read_observations(demo: h5py.Group, obs_keys: Sequence[str], low: int, high: int, out: np.ndarray) -> None:
    """Steps low to high of every key, side by side, into `out` (high - low, D); HDF5 converts to float32."""
    column = 0
    for key in obs_keys:
        values = _read_rows(demo, f"obs/{key}", low, high)
        out[:, column : column + values.shape[1]] = values
        column += values.shape[1]


def read_actions(demo: h5py.Group, key: str, action_space: ActionSpace, low: int, high: int) -> Tensor:
    """Steps low to high of the dataset `key`, (high - low, Da) in the rotation code of `action_space`."""
    values = torch.from_numpy(_read_rows(demo, key, low, high))
    return actions_to_rotation_6d(values) if action_space.rotation == "rotation_6d" else values


def _read_rows(demo: h5py.Group, key: str, low: int, high: int) -> np.ndarray:
    dataset = demo[key]
    rows = np.empty((high - low, *dataset.shape[1:]), dtype=np.float32)
    dataset.read_direct(rows, np.s_[low:high])
    rows = rows.reshape(high - low, -1)
    finite = np.isfinite(rows)
    if not finite.all():
        step, dimension = np.argwhere(~finite)[0]
        file, name = demo.file.filename, demo.name.rsplit("/", 1)[-1]
        raise LFMError(
            f"{file}: {name}/{key} is {rows[step, dimension]} at step {low + step}, dimension {dimension}; "
            f"`lfm inspect {file}` lists all of them"
        )
    return rows
