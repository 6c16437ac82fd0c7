"""Demonstrations out of a robomimic HDF5 file: which there are, how they split, and reading them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from lfm_policy.data import hdf5
from lfm_policy.data.action_space import ARM_DIM, ActionSpace, Representation, Rotation
from lfm_policy.data.demonstrations import (
    Demonstrations,
    LazyDemonstrations,
    MemoryDemonstrations,
    read_actions,
    read_observations,
)
from lfm_policy.data.goals import action_key
from lfm_policy.data.plugins import register_environments
from lfm_policy.flow.errors import LFMError

logger = logging.getLogger(__name__)


def read_demonstrations(
    path: str | Path,
    obs_keys: Sequence[str],
    *,
    representation: Representation,
    rotation: Rotation = "axis_angle",
    filter_key: str | None = None,
    names: Sequence[str] | None = None,
    max_memory_gb: float = 8.0,
    on_size: Callable[[str], None] | None = None,
) -> Demonstrations:
    """Read a dataset: all in memory when it fits in `max_memory_gb`, lazily otherwise.

    `filter_key` picks the demonstrations of `mask/<filter_key>`, `names` the given ones; all without either.
    Delta actions come from the dataset `actions`, absolute ones from `actions_abs` or, where it is `actions`
    that holds goals, from there; `rotation_6d` converts them. Before any memory is taken `on_size` (else the
    log) is told the size in one line. Raises LFMError for what is missing, of the wrong shape, or not finite.
    """
    if not obs_keys:
        raise LFMError("data.obs_keys: is empty; name the observations to read, as object, robot0_eef_pos")
    with hdf5.open_hdf5(path) as file:
        chosen = _choose(file, filter_key, names)
        env_args = hdf5.read_env_args(file)
        key = action_key(file, chosen, env_args, representation)
        action_space = _action_space(file, chosen[0], key, env_args, representation, rotation)
        obs_dims = tuple(hdf5.dim_of(hdf5.find_dataset(file["data"][chosen[0]], f"obs/{key}")) for key in obs_keys)
        lengths = tuple(_checked_length(file["data"][name], obs_keys, obs_dims, key, action_space) for name in chosen)
        gigabytes = sum(lengths) * (sum(obs_dims) + action_space.dim) * 4 / 1e9
        lazy = gigabytes > max_memory_gb
        (on_size or logger.info)(
            f"{path}: {len(chosen)} demonstration{'' if len(chosen) == 1 else 's'}, {sum(lengths)} frames of "
            f"{sum(obs_dims)} + {action_space.dim} numbers, {gigabytes * 1e3:.3g} MB, "
            + ("read from the file lazily" if lazy else "held in memory")
        )
        common = (Path(path), tuple(chosen), lengths, tuple(obs_keys), obs_dims, env_args, action_space, key)
        if lazy:
            return LazyDemonstrations(*common)
        return MemoryDemonstrations(*common, *_read_all(file, chosen, lengths, obs_keys, obs_dims, key, action_space))


def _choose(file: h5py.File, filter_key: str | None, names: Sequence[str] | None) -> list[str]:
    chosen = hdf5.chosen_names(file, filter_key)
    if names is not None:
        wanted = hdf5.in_order(file, names, "names")
        present = set(chosen)
        chosen = [name for name in wanted if name in present]
    if not chosen:
        raise LFMError(f"{file.filename}: mask/{filter_key} holds none of {', '.join(names or ())}; choose others")
    return chosen


def _action_space(
    file: h5py.File,
    name: str,
    key: str,
    env_args: Mapping[str, Any],
    representation: Representation,
    rotation: Rotation,
) -> ActionSpace:
    dim = hdf5.dim_of(hdf5.find_dataset(file["data"][name], key))
    if rotation == "rotation_6d":
        if dim % ARM_DIM["axis_angle"]:
            raise LFMError(
                f"{file.filename}: {name}/{key} has {dim} dimensions, rotation_6d needs 7 an arm; "
                "set data.rotation: axis_angle"
            )
        dim = dim // ARM_DIM["axis_angle"] * ARM_DIM["rotation_6d"]
    return ActionSpace.from_env_args(env_args, representation, rotation, dim)


def _checked_length(
    demo: h5py.Group, obs_keys: Sequence[str], obs_dims: Sequence[int], actions: str, action_space: ActionSpace
) -> int:
    """The demonstration's length, once every dataset that will be read has it and the first one's width."""
    arms = action_space.dim // ARM_DIM["rotation_6d"] if action_space.rotation == "rotation_6d" else 0
    expected = {f"obs/{key}": dim for key, dim in zip(obs_keys, obs_dims, strict=True)}
    expected[actions] = arms * ARM_DIM["axis_angle"] or action_space.dim
    length = len(hdf5.find_dataset(demo, actions))
    for key, dim in expected.items():
        dataset = hdf5.find_dataset(demo, key)
        if (len(dataset), hdf5.dim_of(dataset)) != (length, dim) or not length:
            file, name = demo.file.filename, demo.name.rsplit("/", 1)[-1]
            raise LFMError(
                f"{file}: {name}/{key} has shape {dataset.shape}, but {actions} {length} steps and the first "
                f"demonstration {dim} numbers a step; `lfm inspect {file}` shows more"
            )
    return length


def _read_all(
    file: h5py.File,
    names: Sequence[str],
    lengths: Sequence[int],
    obs_keys: Sequence[str],
    obs_dims: Sequence[int],
    action_key: str,
    action_space: ActionSpace,
) -> tuple[Tensor, Tensor]:
    observations = np.empty((sum(lengths), sum(obs_dims)), dtype=np.float32)
    actions = torch.empty(sum(lengths), action_space.dim)
    start = 0
    for name, length in zip(names, lengths, strict=True):
        frames = slice(start, start + length)
        read_observations(file["data"][name], obs_keys, 0, length, observations[frames])
        actions[frames] = read_actions(file["data"][name], action_key, action_space, 0, length)
        start += length
    return torch.from_numpy(observations), actions


def split_names(
    path: str | Path, valid_fraction: float, seed: int, filter_key: str | None = None
) -> tuple[list[str], list[str]]:
    """The demonstrations to train on and those to validate on.

    `mask/train` and `mask/valid` where the file has both (within `filter_key`, if given), else a split by whole
    episodes, of `mask/train` where it has that. LFMError if a demonstration is in both masks.
    """
    with hdf5.open_hdf5(path) as file:
        chosen = _choose(file, filter_key, None)
        masks, present = hdf5.masks(file), set(chosen)
        train, valid = (
            [name for name in hdf5.mask_names(file, key) if name in present] if key in masks else None
            for key in ("train", "valid")
        )
        if train is None or valid is None:
            return split_episodes(chosen if train is None else train, valid_fraction, seed)
        both = sorted(set(train) & set(valid))
        if both:
            raise LFMError(f"{path}: {', '.join(both[:5])} in both mask/train and mask/valid; remove from one")
        return train, valid


def split_episodes(names: Sequence[str], valid_fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """A seeded split in the given order: `valid_fraction` of the names, at least 1 of 2 or more, validate."""
    if not 0 <= valid_fraction < 1:
        raise LFMError(f"data.valid_fraction: {valid_fraction} must be 0 or more and below 1")
    n_valid = min(max(1, round(valid_fraction * len(names))), len(names) - 1) if valid_fraction else 0
    drawn = set(np.random.default_rng(seed).permutation(len(names))[:n_valid].tolist())
    train = [name for index, name in enumerate(names) if index not in drawn]
    return train, [name for index, name in enumerate(names) if index in drawn]


def dataset_identity(
    path: str | Path, keys: Sequence[str] = ("actions",), filter_key: str | None = None
) -> dict[str, Any]:
    """What a checkpoint says of its data: file name, sizes, env_args, first and last of each run of recorded seeds, and
    the SHA-256 of names and of the datasets `keys`; of the demonstrations of `filter_key`, all if there is none."""
    digest = hashlib.sha256()
    with hdf5.open_hdf5(path) as file:
        names = hdf5.chosen_names(file, filter_key)
        n_frames = 0
        for name in names:
            for key in keys:
                values = np.ascontiguousarray(hdf5.find_dataset(file["data"][name], key)[()], dtype="<f8")
                digest.update(f"{name} {key} {values.shape}\n".encode())
                digest.update(values.tobytes())
            n_frames += len(file["data"][name][keys[0]])
        return {
            "file": Path(path).name,
            "sha256": digest.hexdigest(),
            "n_episodes": len(names),
            "n_frames": n_frames,
            "env_args": hdf5.read_env_args(file),
            "seed_ranges": hdf5.seed_ranges(file, names),
        }


def env_id_of(env_args: Mapping[str, Any], path: str | Path = "dataset") -> str:
    """The gymnasium id registered for the environment of `env_args`; LFMError if there is none."""
    import gymnasium

    register_environments()
    name = str(env_args.get("env_name") or "")
    # with a colon gymnasium imports the module before it, which registers the rest
    if name in gymnasium.registry or ":" in name:
        return name
    registered = {
        str(spec.kwargs["env_name"]): env_id for env_id, spec in gymnasium.registry.items() if "env_name" in spec.kwargs
    }
    if name in registered:
        return registered[name]
    told = f"env_name {name!r} is not registered" if name else "data.attrs['env_args'] names no environment"
    raise LFMError(f"{path}: {told}; the registered environments: {', '.join(sorted(registered)) or 'none'}")
