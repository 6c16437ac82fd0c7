"""Observations by key out of vectors that hold several: `{"hand": "state[0:3]", "goal": "state[36:39]"}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.flow.errors import LFMError

PART = re.compile(r"\s*([\w./ -]+?)\s*(?:\[\s*(?:(\d+)|(\d*)\s*:\s*(\d*))\s*\])?\s*")

Part = tuple[str, slice]


@cache
def parse_parts(key: str, text: str) -> tuple[Part, ...]:
    """What an observation `key` consists of: names with the columns taken of each, joined in order.

    `text` is names separated by commas, each with a range of columns (`state[4:11]`), one column
    (`state[3]`), or neither for all of them. LFMError names the key and what cannot be read.
    """
    parts = []
    for piece in str(text).split(","):
        found = PART.fullmatch(piece)
        if found is None:
            raise LFMError(f"observation.{key}: '{text}' cannot be read; write it like state[0:3], or state[0:3], goal")
        parts.append((found[1], _columns(*found.group(2, 3, 4))))
    return tuple(parts)


def select(values: Mapping[str, NDArray[Any]], mapping: Mapping[str, str], source: str) -> dict[str, NDArray[Any]]:
    """The observations of `mapping` out of `values`: key to (..., columns); `source` is named in errors.

    LFMError if a name is not there, or has fewer columns than asked for.
    """
    return {key: _joined(values, key, text, source) for key, text in mapping.items()}


def _joined(values: Mapping[str, NDArray[Any]], key: str, text: str, source: str) -> NDArray[Any]:
    parts = []
    for name, columns in parse_parts(key, text):
        if name not in values:
            raise LFMError(f"{source}: observation.{key} asks for '{name}'; there are {', '.join(sorted(values))}")
        array = np.asarray(values[name])
        part = array[..., columns] if array.ndim else array
        wanted = columns.stop or array.shape[-1]
        if not array.ndim or wanted > array.shape[-1] or not part.shape[-1]:
            raise LFMError(f"{source}: observation.{key} asks for {text}, but {name} has shape {array.shape}")
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _columns(one: str | None, start: str | None, stop: str | None) -> slice:
    """Columns of `[one]`, of `[start:stop]`, or all."""
    if one is not None:
        return slice(int(one), int(one) + 1)
    return slice(int(start or 0), int(stop) if stop else None)
