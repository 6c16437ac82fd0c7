"""A recording as every format's reader gives it and every format's writer takes it: episodes by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Episode:
    """An episode of T steps.

    actions (T, A) and states (T, S), or None where no states were recorded; rewards and dones (T,) after
    each action, or None; observations and next_observations: key to (T, d); datasets: further rows of T
    (`actions_abs`); attrs: what stands beside them (`model_file`, `seed`, `initial_joint`).
    """

    actions: Array
    states: Array | None = None
    observations: Mapping[str, Array] = field(default_factory=dict)
    next_observations: Mapping[str, Array] = field(default_factory=dict)
    rewards: Array | None = None
    dones: Array | None = None
    datasets: Mapping[str, Array] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """A file's episodes, read one at a time by `read(name)`.

    env_args: robomimic's {"env_name", "type", "env_version", "env_kwargs"}, {} if the file tells no
    environment; masks: filter key to names; layout: the format in words, for what is said to the user.
    """

    path: Path
    layout: str
    env_args: dict[str, Any]
    names: Sequence[str]
    read: Callable[[str], Episode]
    masks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def episodes(self) -> Iterator[tuple[str, Episode]]:
        """Every episode with its name, in order."""
        return ((name, self.read(name)) for name in self.names)
