"""Nested settings by dotted names, and the fields in which two differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = "nothing"
# fields of a training config, by how their names begin, with which a run stays the same (on another machine but for
# rounding); its data are told by a hash
UNESSENTIAL: tuple[str, ...] = ("output_dir", "resume", "overwrite", "stop_after", "rollout.", "data.path")
UNESSENTIAL += ("device", "threads")
UNESSENTIAL += ("data.max_memory", "training.log_", "training.valid_", "training.checkpoint_")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values within nested mappings by dotted names; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def differences(
    was: Mapping[str, Any],
    now: Mapping[str, Any],
    free: tuple[str, ...] = (),
    words: tuple[str, str] = ("was", "now"),
) -> list[str]:
    """Every field of two nested mappings that differs, as `checkpoint.step: was 40, now 50`.

    Fields whose names begin as one of `free` may differ; one that is not there is as one that is None or empty.
    """
    left, right = ({name: value for name, value in flat(side).items() if value != {}} for side in (was, now))
    return [
        f"{name}: {words[0]} {left.get(name, NOTHING)}, {words[1]} {right.get(name, NOTHING)}"
        for name in dict.fromkeys([*left, *right])
        if not name.startswith(free) and left.get(name) != right.get(name)
    ]
