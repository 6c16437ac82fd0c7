"""What training asks of the files in `config.train.data`: how many windows there are, and their statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lfm_policy.data import hdf5
from lfm_policy.data.normalizer import Mode, Normalizer, Statistics
from lfm_policy.flow import LFMError


@dataclass(frozen=True)
class Recording:
    """A file of the config, and which of its demonstrations are trained on."""

    path: Path
    filter_key: str | None
    demo_limit: int | None = None

    def demos(self) -> Iterator[h5py.Group]:
        """The demonstrations, in robomimic's order; LFMError where the file or the filter key is none."""
        with hdf5.open_hdf5(self.path) as file:
            names = hdf5.demo_names(file) if self.filter_key is None else hdf5.mask_names(file, self.filter_key)
            for name in names[: self.demo_limit]:
                yield file["data"][name]


def recordings(train: Mapping[str, Any]) -> list[Recording]:
    """The files of `config.train`: 0.3 and 0.4 name one by its path, 0.5 has a list of dicts."""
    data, shared = train["data"], train["hdf5_filter_key"]
    if not data:
        raise LFMError("train.data: names no dataset; give --dataset FILE, or set it in the config")
    entries: list[Mapping[str, Any]] = [{"path": data}] if isinstance(data, str) else data
    return [
        Recording(Path(entry["path"]).expanduser(), entry.get("filter_key", shared), entry.get("demo_limit"))
        for entry in entries
    ]


def action_keys(train: Mapping[str, Any]) -> list[str]:
    """The datasets that make an action, side by side (0.5 lets the config choose)."""
    return list(train.get("action_keys") or ["actions"])


def n_windows(train: Mapping[str, Any]) -> int:
    """How many sequences robomimic's SequenceDataset makes of the files."""
    stacked = 0 if train["pad_frame_stack"] else train["frame_stack"] - 1
    cut = 0 if train["pad_seq_length"] else train["seq_length"] - 1
    key, least = action_keys(train)[0], int(train["pad_seq_length"])
    lengths = (len(hdf5.find_dataset(demo, key)) for recording in recordings(train) for demo in recording.demos())
    return sum(max(least, length - stacked - cut) for length in lengths)


def fit_action_normalizer(train: Mapping[str, Any], dim: int, mode: Mode) -> Normalizer:
    """Normaliser of actions by all frames trained on; the identity where robomimic normalises them itself."""
    config = train.get("action_config") or {}
    if any((config.get(key) or {}).get("normalization") for key in action_keys(train)):
        return Normalizer(dim)
    return _fitted(train, action_keys(train), mode)


def fit_observation_normalizer(
    train: Mapping[str, Any], dims: Sequence[tuple[str, int]], low_dim: Sequence[str], mode: Mode
) -> Normalizer:
    """Normaliser of observations of (key, dimension), joined; the identity on keys that are not `low_dim`.

    And on all of them where robomimic normalises observations itself.
    """
    by_us = () if train["hdf5_normalize_obs"] else low_dim
    parts = [_fitted(train, [f"obs/{key}"], mode) if key in by_us else Normalizer(dim) for key, dim in dims]
    joined = Normalizer(sum(dim for _, dim in dims))
    joined.load_state_dict({name: torch.cat([getattr(part, name) for part in parts]) for name in joined.state_dict()})
    return joined


def _fitted(train: Mapping[str, Any], keys: Sequence[str], mode: Mode) -> Normalizer:
    s = Statistics.of(_frames(train, keys))
    return Normalizer.from_statistics(s.min, s.max, s.mean, s.std, mode)


def _frames(train: Mapping[str, Any], keys: Sequence[str]) -> Iterator[torch.Tensor]:
    """Rows (T, D) of each demonstration, its datasets `keys` side by side."""
    for recording in recordings(train):
        for demo in recording.demos():
            parts = [np.asarray(hdf5.find_dataset(demo, key)[()], np.float32) for key in keys]
            yield torch.from_numpy(np.hstack([part.reshape(len(part), -1) for part in parts]))
