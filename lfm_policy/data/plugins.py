"""The package's own environments, known to gymnasium without importing them by name."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def register_environments() -> None:
    """Register `lfm/Lift-v0` and its siblings through the entry point `lfm` of the group `gymnasium.envs`.

    gymnasium itself stopped reading that group with 1.0. Imports no simulator.
    """
    for entry in metadata.entry_points(group="gymnasium.envs", name="lfm"):
        entry.load()()
