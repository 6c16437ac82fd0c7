"""robomimic's HDF5 layout, read so that whatever is wrong with a file becomes a one-line LFMError."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfm_policy.flow.errors import LFMError

# attributes of `data`: the name of what a file was converted from; the attempts that it was collected in, and how
SOURCE, ATTEMPTS, COLLECTED = "source", "attempts", "collected"


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open for reading; LFMError if the file is missing, no HDF5, truncated, or fails while it is read."""
    path = Path(path)
    if path.is_dir():
        raise LFMError(f"{path}: is a folder; give the path of a robomimic HDF5 dataset")
    if not path.is_file():
        raise LFMError(f"{path}: no such file; give the path of a robomimic HDF5 dataset")
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("data"), h5py.Group):
                raise LFMError(
                    f"{path}: has no group `data` (it has {_listed(file)}); not a robomimic dataset, give one"
                )
            yield file
    # h5py tells of damage by whichever of these its C library was near
    except (OSError, RuntimeError, KeyError) as error:
        cause = " ".join(str(error).strip("'\"").split())
        raise LFMError(f"{path}: cannot be read, truncated or no HDF5 ({cause}); copy or record it anew") from error


def demo_names(file: h5py.File) -> list[str]:
    """The demonstrations by the number after `demo_`, or by name; groups of other things are left out.

    LFMError if there is none.
    """
    groups = [name for name, item in file["data"].items() if isinstance(item, h5py.Group)]
    numbered = [name for name in groups if name.startswith("demo")]
    names = numbered or [name for name in groups if "actions" in file["data"][name]]
    if not names:
        raise LFMError(f"{file.filename}: has no demonstration under `data`; record some with `lfm collect`")
    return sorted(names, key=_number_then_name)


def _number_then_name(name: str) -> tuple[bool, int, str]:
    number = re.fullmatch(r"demo_(\d+)", name)
    return (False, int(number[1]), name) if number else (True, 0, name)


def masks(file: h5py.File) -> dict[str, list[str]]:
    """Filter key to demonstration names, in the file's order; bytes and strings both."""
    group = file.get("mask")
    if not isinstance(group, h5py.Group):
        return {}
    return {
        key: [name.decode() if isinstance(name, bytes) else str(name) for name in np.asarray(item).ravel()]
        for key, item in group.items()
        if isinstance(item, h5py.Dataset)
    }


def mask_names(file: h5py.File, filter_key: str) -> list[str]:
    """The demonstrations of a filter key in the order of `demo_names`; LFMError if it or one is missing."""
    known = masks(file)
    if filter_key not in known:
        raise LFMError(f"{file.filename}: has no filter key mask/{filter_key}; {nearest(filter_key, known)}")
    return in_order(file, known[filter_key], f"mask/{filter_key}")


def chosen_names(file: h5py.File, filter_key: str | None) -> list[str]:
    """The demonstrations of a filter key, all if there is none; LFMError as of `demo_names` and `mask_names`."""
    return demo_names(file) if filter_key is None else mask_names(file, filter_key)


def in_order(file: h5py.File, names: Iterable[str], source: str) -> list[str]:
    """`names` in the order of `demo_names`; LFMError if one of them is not in the file or none is given."""
    wanted, present = set(names), demo_names(file)
    for name in sorted(wanted - set(present)):
        raise LFMError(f"{file.filename}: {source} names {name}, which is not in it; {nearest(name, present)}")
    if not wanted:
        raise LFMError(f"{file.filename}: {source} holds no demonstration; choose another, or leave it out")
    return [name for name in present if name in wanted]


def seed_ranges(file: h5py.File, names: Iterable[str]) -> list[tuple[int, int]]:
    """First and last of each run of seeds that these demonstrations were recorded on, as far as they tell them."""
    told = (file["data"][name].attrs.get("seed") for name in names)
    ranges: list[tuple[int, int]] = []
    for seed in sorted({int(seed) for seed in told if isinstance(seed, np.integer | int)}):
        follows = bool(ranges) and seed == ranges[-1][1] + 1
        ranges[len(ranges) - follows :] = [(ranges[-1][0] if follows else seed, seed)]
    return ranges


def read_env_args(file: h5py.File) -> dict[str, Any]:
    """robomimic's `env_args`, or the like from robosuite's raw recordings; {} in a file with neither.

    LFMError if they are not JSON.
    """
    attrs = file["data"].attrs
    if "env_args" in attrs:
        return _json_object(file, "env_args")
    if "env_info" not in attrs:
        return {}
    env_kwargs = _json_object(file, "env_info")
    env_name = env_kwargs.pop("env_name", None) or str(attrs.get("env", ""))
    version = str(attrs.get("repository_version", ""))
    return {"env_name": env_name, "type": 1, "env_version": version, "env_kwargs": env_kwargs}


def _json_object(file: h5py.File, name: str) -> dict[str, Any]:
    try:
        values = json.loads(file["data"].attrs[name])
    except (ValueError, TypeError) as error:
        raise LFMError(f"{file.filename}: data.attrs['{name}'] is not JSON ({error}); repair it") from error
    if not isinstance(values, dict):
        raise LFMError(f"{file.filename}: data.attrs['{name}'] is not a JSON object; repair it")
    return values


def find_dataset(demo: h5py.Group, key: str) -> h5py.Dataset:
    """The low-dimensional dataset `key` of a demonstration; LFMError names what is there, nearest first."""
    file, name = demo.file.filename, demo.name.rsplit("/", 1)[-1]
    parent: Any = demo
    for part in key.split("/"):
        where = parent.name.removeprefix("/data/")
        if not isinstance(parent, h5py.Group):
            raise LFMError(f"{file}: {where} is no group and has no key {part}; leave /{part} out")
        if part not in parent:
            raise LFMError(f"{file}: {where} has no key {part}; {nearest(part, parent)}{_remedy(part, file)}")
        parent = parent[part]
    if not isinstance(parent, h5py.Dataset):
        raise LFMError(f"{file}: {name}/{key} is a group; it has {_listed(parent)}")
    if not is_low_dim(parent):
        raise LFMError(f"{file}: {name}/{key} has shape {parent.shape} of {parent.dtype}; only numbers (T, D) are read")
    return parent


def _remedy(key: str, path: str) -> str:
    if key == "actions_abs":
        delta = "data.representation: delta and data.rotation: axis_angle"
        return f"; set {delta}, or make absolute actions with `lfm convert {path} --output NEW.hdf5`"
    if key == "obs":
        return f"; a raw recording: `lfm convert {path} --output NEW.hdf5` makes observations of its states"
    return ""


def is_low_dim(dataset: h5py.Dataset) -> bool:
    """Whether it is a series of numbers or of vectors; images and texts are not."""
    return dataset.ndim in (1, 2) and dataset.dtype.kind in "fiub"


def dim_of(dataset: h5py.Dataset) -> int:
    """The length of one row; a dataset of shape (T,) has rows of 1."""
    return 1 if dataset.ndim == 1 else int(dataset.shape[1])


def nearest(name: str, present: Iterable[str] | Mapping[str, Any]) -> str:
    """`it has a, b, c` with the names most like `name` first."""
    return "it has " + _listed(sorted(present, key=lambda other: -_likeness(name, other)))


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _listed(names: Iterable[str], limit: int = 12) -> str:
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) + more) or "nothing"
