"""Restoring the recorded states of demonstrations in a simulator, to see whether they succeed there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from lfm_policy.data import hdf5
from lfm_policy.flow.errors import LFMError

if TYPE_CHECKING:
    import gymnasium


# A simulator says in its own ways that it does not know a model or a state.
REFUSALS = (ValueError, RuntimeError, LookupError, OSError, AttributeError, TypeError)


@dataclass(frozen=True)
class Replay:
    """Which demonstrations succeed, and why the recorded models were not used ("" if they were)."""

    succeeded: dict[str, bool]
    refusal: str


@dataclass(frozen=True)
class _Recorded:
    states: np.ndarray
    actions: np.ndarray | None
    hidden: dict[str, Any]


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names, evenly spread from the first to the last; all of them if there are not more."""
    if count >= len(names):
        return list(names)
    return [names[int(index)] for index in np.linspace(0, len(names) - 1, count).round()]


Watch = Callable[[str, int, "gymnasium.Env"], None]


def replay_states(
    path: str | Path, make: Callable[[], gymnasium.Env], names: Sequence[str], watch: Watch | None = None
) -> Replay:
    """Whether the task's own test is true in a recorded state of each demonstration, or right after the last.

    The first state, with the recorded model, resets the environment that `make` gives, and the others are set
    one after the other; if none succeeds the last action is taken once, because a recording may end with the
    action that leads to success. If the simulator refuses a model (another version's, as a rule) all is done
    again with its own. `watch` is called with the demonstration's name, the number of a state and the environment in
    it, for all states then. LFMError if a demonstration has no states or these are refused as well.
    """
    with hdf5.open_hdf5(path) as file:
        recorded = {name: _read(file["data"][name]) for name in names}
    env = make()
    try:
        return Replay(_replay(path, env, recorded, watch), "")
    except LFMError as error:
        if not any(demo.hidden for demo in recorded.values()):
            raise
        own = {name: replace(demo, hidden={}) for name, demo in recorded.items()}
        return Replay(_replay(path, env, own, watch), str(error))
    finally:
        env.close()


def _read(demo: h5py.Group) -> _Recorded:
    hidden = {key: demo.attrs[key] for key in ("model_file", "initial_joint") if key in demo.attrs}
    actions = demo["actions"][()] if "actions" in demo else None
    return _Recorded(hdf5.find_dataset(demo, "states")[()], actions, hidden)


def _replay(
    path: str | Path, env: gymnasium.Env, recorded: Mapping[str, _Recorded], watch: Watch | None
) -> dict[str, bool]:
    for method in ("set_states", "is_success"):
        if not hasattr(env.unwrapped, method):
            raise LFMError(f"{path}: {type(env.unwrapped).__name__} has no {method}; it cannot replay states")
    succeeded = {}
    for name, demo in recorded.items():
        try:
            succeeded[name] = _succeeds(env, demo, partial(watch, name) if watch else None)
        except REFUSALS as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise LFMError(f"{path}: {name}/states cannot be restored ({cause})") from error
    return succeeded


def _succeeds(env: gymnasium.Env, recorded: _Recorded, watch: Callable[[int, gymnasium.Env], None] | None) -> bool:
    simulator: Any = env.unwrapped
    env.reset(options={"state": {"states": recorded.states[0], **recorded.hidden}})
    success = False
    for number, state in enumerate(recorded.states):
        simulator.set_states(state)
        success = success or simulator.is_success()
        if watch is not None:
            watch(number, env)
        elif success:
            break
    if success or recorded.actions is None:
        return success
    env.reset(options={"state": {"states": recorded.states[-1], **recorded.hidden}})
    env.step(recorded.actions[-1].astype(np.float32))
    return bool(simulator.is_success())
