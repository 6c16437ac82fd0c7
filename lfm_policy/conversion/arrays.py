"""Episodes laid end to end in plain arrays by name, as Diffusion Policy's replay buffers are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfm_policy.conversion.recording import Array, Episode, Recording
from lfm_policy.data.mapping import parse_parts, select
from lfm_policy.flow.errors import LFMError

ENDS, ENV_ARGS = "episode_ends", "env_args"
# what is no observation, by the names it goes under; the first one is written
SLOTS: dict[str, tuple[str, ...]] = {
    "actions": ("action", "actions"),
    "states": ("state", "states"),
    "rewards": ("reward", "rewards"),
    "dones": ("done", "dones", "terminals"),
}


@dataclass(frozen=True)
class Columns:
    """Which arrays mean what; what is blank is looked for.

    actions, states: names of arrays (the states of a simulator, to replay). observation: key to what it
    consists of, as `lfm_policy.data.mapping` reads it; {} takes every array of numbers that is nothing else.
    """

    actions: str = ""
    states: str = ""
    observation: Mapping[str, str] = field(default_factory=dict)


def read_arrays(path: Path, arrays: Mapping[str, Any], columns: Columns, layout: str) -> Recording:
    """Episodes out of arrays of all frames (frames, …) by name; `episode_ends` (episodes,) says where each ends.

    LFMError if that or the actions are missing, or an array has another number of frames.
    """
    ends = _episode_ends(path, arrays)
    slots = _slots(path, arrays, columns)
    frames = {name: array for name, array in arrays.items() if name not in (ENDS, ENV_ARGS)}
    for name, array in frames.items():
        if not array.shape or array.shape[0] != ends[-1]:
            raise LFMError(f"{path}: {name} has shape {tuple(array.shape)}, but {ENDS} ends at {ends[-1]} frames")
    mapping = dict(columns.observation) or _everything_else(frames, set(slots.values()))
    used = {*slots.values(), *(name for key, text in mapping.items() for name, _ in parse_parts(key, text))}
    spans = {f"demo_{i}": span for i, span in enumerate(zip([0, *ends[:-1]], ends, strict=True))}

    def read(name: str) -> Episode:
        low, high = spans[name]
        rows = {key: _rows(array, low, high) for key, array in frames.items() if key in used}
        values: dict[str, Any] = {slot: rows[key] for slot, key in slots.items()}
        for slot in values.keys() & {"rewards", "dones"}:
            values[slot] = values[slot][:, 0]
        return Episode(**values, observations=select(rows, mapping, f"{path}: {name}"))

    return Recording(path, layout, _env_args(path, arrays), list(spans), read)


def to_arrays(recording: Recording, episodes: Iterable[Episode]) -> dict[str, Array]:
    """All episodes end to end by name, with `episode_ends` and the recording's `env_args` (JSON).

    The inverse of `read_arrays`. LFMError if an observation has the name of something else.
    """
    columns: dict[str, list[Array]] = {}
    ends: list[int] = []
    for episode in episodes:
        rows = {names[0]: getattr(episode, slot) for slot, names in SLOTS.items()}
        rows = {name: values for name, values in rows.items() if values is not None}
        taken = rows.keys() & episode.observations.keys()
        if taken:
            raise LFMError(f"{recording.path}: observation {min(taken)} has the name of another array; rename it")
        for name, values in {**rows, **episode.observations, **episode.datasets}.items():
            columns.setdefault(name, []).append(np.asarray(values))
        ends.append(len(episode.actions) + (ends[-1] if ends else 0))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return arrays | {ENDS: np.array(ends, dtype=np.int64), ENV_ARGS: np.array(json.dumps(recording.env_args))}


def _episode_ends(path: Path, arrays: Mapping[str, Any]) -> list[int]:
    if ENDS not in arrays:
        raise LFMError(f"{path}: has no {ENDS}, which says where each episode ends; it has {_listed(arrays)}")
    ends = np.asarray(arrays[ENDS][()])
    if ends.ndim != 1 or not ends.size or ends.dtype.kind not in "iu" or (np.diff(ends, prepend=0) <= 0).any():
        raise LFMError(f"{path}: {ENDS} must be whole numbers that rise from above 0, one an episode; repair it")
    return [int(end) for end in ends]


def _slots(path: Path, arrays: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """What is no observation: slot to the name of its array."""
    found = {}
    for slot, names in SLOTS.items():
        asked = getattr(columns, slot, "")
        present = [name for name in ((asked,) if asked else names) if name in arrays]
        if present:
            found[slot] = present[0]
        elif asked or slot == "actions":
            raise LFMError(f"{path}: has no array {asked or names[0]} for --{slot}; it has {_listed(arrays)}")
    return found


def _everything_else(frames: Mapping[str, Any], taken: set[str]) -> dict[str, str]:
    """Every array of numbers that is nothing else, under its own name; pictures are left out."""
    chosen = (name for name, array in frames.items() if name not in taken and len(array.shape) < 4)
    return {name: name for name in chosen if np.dtype(frames[name].dtype).kind in "fiub"}


def _rows(array: Any, low: int, high: int) -> Array:
    """Frames low to high, each a vector."""
    rows = np.asarray(array[low:high])
    return rows.reshape(len(rows), -1)


def _env_args(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    if ENV_ARGS not in arrays:
        return {}
    try:
        return dict(json.loads(str(np.asarray(arrays[ENV_ARGS][()]))))
    except (ValueError, TypeError) as error:
        raise LFMError(f"{path}: {ENV_ARGS} is no JSON object ({error}); repair or remove it") from error


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()) or "no array"
