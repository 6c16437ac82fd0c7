"""What stands in the columns of robosuite's observation `object`, which changed with version 1.5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from lfm_policy.data import hdf5
from lfm_policy.data.action_space import major_minor
from lfm_policy.data.checks import Array, Finding, Series
from lfm_policy.flow.errors import LFMError

Version = Literal["1.4", "1.5"]
# Name, how many numbers, sign relative to robosuite 1.5.
Columns = tuple[tuple[str, int, int], ...]

OBJECT, GRIPPER = "obs/object", "obs/robot0_eef_pos"
RELATIVE = "_to_robot0_eef_pos"
SEEN_DEMONSTRATIONS = 10


def _pose(name: str) -> Columns:
    return ((f"{name}_pos", 3, 1), (f"{name}_quat", 4, 1))


def _relative(name: str) -> Columns:
    return _pose(f"{name}_to_robot0_eef")


def _lift(sign: int) -> Columns:
    """`gripper_to_cube_pos` is cube - gripper in robosuite 1.5, gripper - cube before."""
    return (*_pose("cube"), ("gripper_to_cube_pos", 3, sign))


_FLAGS: Columns = (("frame_is_assembled", 1, 1), ("tool_on_frame", 1, 1))
_TRANSPORT: Columns = (
    *_pose("payload"),
    *_pose("trash"),
    *_pose("lid_handle"),
    ("target_bin_pos", 3, 1),
    ("trash_bin_pos", 3, 1),
    ("payload_in_target_bin", 1, 1),
    ("trash_in_trash_bin", 1, 1),
    ("gripper0_to_payload", 3, 1),
    ("gripper0_to_lid_handle", 3, 1),
    ("gripper1_to_payload", 3, 1),
    ("gripper1_to_trash", 3, 1),
)

# robosuite's name of the task to the columns of 1.4 (and older) and of 1.5
LAYOUTS: dict[str, dict[Version, Columns]] = {
    "Lift": {"1.4": _lift(-1), "1.5": _lift(1)},
    "PickPlaceCan": {"1.4": _pose("Can") + _relative("Can"), "1.5": _relative("Can") + _pose("Can")},
    "NutAssemblySquare": {
        "1.4": _pose("SquareNut") + _relative("SquareNut"),
        "1.5": _relative("SquareNut") + _pose("SquareNut"),
    },
    "ToolHang": {
        "1.4": sum(((*_pose(name), *_relative(name)) for name in ("base", "frame", "tool")), ()) + _FLAGS,
        "1.5": sum(((*_relative(name), *_pose(name)) for name in ("base", "frame", "tool")), ()) + _FLAGS,
    },
    "TwoArmTransport": {"1.4": _TRANSPORT, "1.5": _TRANSPORT},
}


def width(env_name: str) -> int:
    """How many numbers `object` has in a task of LAYOUTS."""
    return sum(size for _, size, _ in LAYOUTS[env_name]["1.5"])


def to_current(env_name: str, observed: NDArray[Any]) -> NDArray[Any]:
    """`object` (..., D) as robosuite 1.4 and older lay it out, in the order and with the signs of 1.5."""
    old = _slices(LAYOUTS[env_name]["1.4"])
    parts = [observed[..., old[name][0]] * (old[name][1] * sign) for name, _, sign in LAYOUTS[env_name]["1.5"]]
    return np.concatenate(parts, axis=-1)


def detect(env_name: str, observed: Array, eef_pos: Array) -> Version | None:
    """The layout of `object` (T, D) from its numbers and the gripper's position (T, 3); None if they do not tell.

    Positions relative to the gripper have to agree with those in the world: in Lift number by number, elsewhere,
    where they are in the hand's frame, in length. Only the right reading of the columns does so.
    """
    if env_name not in LAYOUTS or observed.ndim != 2 or observed.shape[1] != width(env_name):
        return None
    # damaged numbers may overflow a square
    observed, eef_pos = np.clip(observed, -1e6, 1e6), np.clip(eef_pos, -1e6, 1e6)
    as_new = _disagreement(env_name, observed, eef_pos)
    as_old = _disagreement(env_name, to_current(env_name, observed), eef_pos)
    if as_new < as_old / 4:
        return "1.5"
    return "1.4" if as_old < as_new / 4 else None


def layout_of(version: str) -> Version:
    """The layout that a version of robosuite writes."""
    return "1.4" if major_minor(version) < (1, 5) else "1.5"


def find_layout(env_args: Mapping[str, Any], sound: Mapping[str, Series], installed: str | None) -> list[Finding]:
    """`object` in another layout than the version that env_args say, or without one the installed version, writes."""
    said = str(env_args.get("env_version") or installed or "")
    found = _detect_in(env_args, sound.get(OBJECT, {}), sound.get(GRIPPER, {}))
    if not said or found is None or found == layout_of(said):
        return []
    whose = "env_args say" if env_args.get("env_version") else "installed is"
    text = f"{OBJECT} is laid out as in robosuite {_words(found)}, {whose} {said}: `lfm convert` makes it anew"
    return [Finding("object layout", "warning", "", text)]


def check_layout(path: str | Path, env_args: Mapping[str, Any], installed: str | None) -> None:
    """LFMError if `object` is laid out as the `installed` robosuite does not; what cannot be told passes."""
    if installed is None:
        return
    with hdf5.open_hdf5(path) as file:
        names = hdf5.demo_names(file)[:SEEN_DEMONSTRATIONS]
        observed, eef_pos = (
            {name: rows for name in names if (rows := _rows(file, name, key)) is not None} for key in (OBJECT, GRIPPER)
        )
    found = _detect_in(env_args, observed, eef_pos)
    if found not in (None, layout_of(installed)):
        raise LFMError(
            f"{path}: obs/object is laid out as in robosuite {_words(found)}, installed is {installed}: "
            f"`lfm convert {path} --output NEW.hdf5` makes it anew (data.check_version: false takes it as it is)"
        )


def _detect_in(env_args: Mapping[str, Any], observed: Series, eef_pos: Series) -> Version | None:
    """What most of the demonstrations that tell say."""
    env_name = str(env_args.get("env_name", ""))
    if env_args.get("type", 1) != 1:
        return None
    votes = Counter(
        detect(env_name, rows, eef_pos[name])
        for name, rows in observed.items()
        if name in eef_pos and eef_pos[name].shape == (len(rows), 3)
    )
    return "1.4" if votes["1.4"] > votes["1.5"] else "1.5" if votes["1.5"] else None


def _rows(file: h5py.File, name: str, key: str) -> NDArray[Any] | None:
    dataset = file["data"][name].get(key)
    return dataset[()] if isinstance(dataset, h5py.Dataset) and dataset.ndim == 2 else None


def _disagreement(env_name: str, observed: Array, eef_pos: Array) -> float:
    """Mean distance in metres between relative positions and those that the others lead to; 0 without any."""
    columns = {name: observed[:, where] for name, (where, _) in _slices(LAYOUTS[env_name]["1.5"]).items()}
    if env_name == "Lift":
        expected = columns["cube_pos"] - eef_pos
        return float(np.linalg.norm(columns["gripper_to_cube_pos"] - expected, axis=1).mean())
    pairs = [
        (relative, columns[name.removesuffix(RELATIVE) + "_pos"])
        for name, relative in columns.items()
        if name.endswith(RELATIVE)
    ]
    if not pairs or len(observed) < 2:
        return 0.0
    # the sensors know an object's pose of the reading before: a substep ago in rollouts, a whole step ago where
    # observations were extracted from states; the first row may hold zeros
    fresh = [_difference(relative[1:], position[1:], eef_pos[1:]) for relative, position in pairs]
    behind = [_difference(relative[1:], position[:-1], eef_pos[1:]) for relative, position in pairs]
    return float(min(np.mean(fresh), np.mean(behind)))


def _difference(relative: Array, position: Array, eef_pos: Array) -> float:
    """Of lengths, since `relative` is in the hand's frame."""
    lengths = np.linalg.norm(relative, axis=1), np.linalg.norm(position - eef_pos, axis=1)
    return float(np.abs(lengths[0] - lengths[1]).mean())


def _slices(columns: Columns) -> dict[str, tuple[slice, int]]:
    slices, start = {}, 0
    for name, size, sign in columns:
        slices[name] = (slice(start, start + size), sign)
        start += size
    return slices


def _words(layout: str | None) -> str:
    return "1.4 and older" if layout == "1.4" else "1.5"
