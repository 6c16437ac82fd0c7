"""Environments and experts known by name: the package's own, and those in modules of the present folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@cache
def register_environments() -> None:
    """Register `lfm/Lift-v0` and its siblings through the entry point `lfm` of the group `gymnasium.envs`.

    gymnasium itself stopped reading that group with 1.0. Imports no simulator. From then on modules of the present
    folder are found as well, whose environments go by `module:id`.
    """
    sys.meta_path.append(_PresentFolder)
    for entry in metadata.entry_points(group="gymnasium.envs", name="lfm"):
        entry.load()()


class _PresentFolder:
    """Finds modules of the present folder, as `python -m` would; the last to be asked, so that it hides none.

    A folder at the end of `sys.path` would hide packages that are installed for editing, whose finders come later.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Of a module or package with code; any folder would do for one without."""
        if path is not None:
            return None
        try:
            spec = PathFinder.find_spec(name, [os.getcwd()], target)
        except OSError:  # the folder is gone
            return None
        return spec if spec is not None and spec.loader is not None else None
