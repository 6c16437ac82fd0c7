"""robomimic's HDF5 layout and robosuite's own demo.hdf5 as recordings, and recordings as demo.hdf5."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfm_policy.conversion.env_args import with_goals
from lfm_policy.conversion.recording import Array, Episode, Recording
from lfm_policy.data import hdf5
from lfm_policy.data.action_space import commands_are_absolute, installed_version
from lfm_policy.data.goals import hold_goals
from lfm_policy.flow.errors import LFMError

STANDARD = ("actions", "states", "rewards", "dones")
# What robosuite's own playback gives to robosuite.make beside env_info, and would be given twice.
SET_BY_PLAYBACK = {
    "has_renderer",
    "has_offscreen_renderer",
    "ignore_done",
    "use_camera_obs",
    "reward_shaping",
    "control_freq",
}
PLAYBACK_HZ = 20


def read_hdf5(path: str | Path) -> Recording:
    """An HDF5 file in whichever of the two layouts it has, told by its attributes."""
    with hdf5.open_hdf5(path) as file:
        raw = "env_info" in file["data"].attrs and "env_args" not in file["data"].attrs
    return read_robosuite(path) if raw else read_robomimic(path)


def read_robomimic(path: str | Path) -> Recording:
    """A file in robomimic's layout, of any version; groups and attributes it does not know are left out.

    Where `actions` are goals by their numbers but not by env_args, these are put right.

    LFMError for a file that is none, or in which `actions` or `states` are not rows of numbers.
    """
    return _recording(Path(path), "robomimic HDF5", _read_robomimic)


def read_robosuite(path: str | Path) -> Recording:
    """robosuite's own demo.hdf5: states, actions and models, nothing observed.

    A model may be text or the name of a file in `models/` beside it; one that is not there is left out.
    LFMError for robosuite 0.3's files, which hold no actions.
    """
    return _recording(Path(path), "robosuite demo.hdf5", _read_robosuite)


def write_robosuite(
    path: str | Path, recording: Recording, episodes: Iterable[Episode], overwrite: bool = False
) -> None:
    """Write robosuite's demo.hdf5, from which its playback_demonstrations_from_hdf5.py reads; whole or not at all.

    `recording` says of what environment the episodes are. They become demo_1, demo_2, … with states, actions,
    attributes and, where there are, absolute actions; observations, rewards, dones and masks have no place in it.
    LFMError if there are no states or models to play back, or actions at another rate than the 20 Hz that
    robosuite assumes.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    env_info = _env_info(recording)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(temporary, "w") as file:
                data = file.create_group("data")
                for number, episode in enumerate(episodes, 1):
                    _write_episode(data.create_group(f"demo_{number}"), episode, recording.path)
                now = datetime.datetime.now()
                data.attrs["date"] = f"{now.month}-{now.day}-{now.year}"
                data.attrs["time"] = f"{now.hour}:{now.minute}:{now.second}"
                data.attrs["repository_version"] = str(
                    recording.env_args.get("env_version") or installed_version() or "unknown"
                )
                data.attrs["env"] = env_info["env_name"]
                data.attrs["env_info"] = json.dumps(env_info)
            _refuse_existing(path, overwrite)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _recording(path: Path, layout: str, read: Callable[[Path, str, h5py.Group], Episode]) -> Recording:
    with hdf5.open_hdf5(path) as file:
        names = hdf5.demo_names(file)
        for name in names:
            _check_groups(file["data"][name], name)
        env_args, masks = hdf5.read_env_args(file), hdf5.masks(file)
        # Diffusion Policy replaced actions and left env_args as they were
        if hold_goals(file, names, env_args) and not commands_are_absolute(env_args):
            env_args = with_goals(env_args)

    def read_episode(name: str) -> Episode:
        with hdf5.open_hdf5(path) as file:
            return read(path, name, file["data"][name])

    return Recording(path, layout, env_args, names, read_episode, masks)


def _check_groups(demo: h5py.Group, name: str) -> None:
    file = demo.file.filename
    for key in ("actions", "states"):
        if isinstance(demo.get(key), h5py.Group):
            raise LFMError(
                f"{file}: {name}/{key} is a group of {', '.join(demo[key])}, not an array (Isaac Lab's layout); "
                "states of robosuite or plain arrays are read"
            )
    if "actions" not in demo:
        old = sorted({"right_dpos", "right_dquat", "joint_velocities", "gripper_actuations"} & set(demo))
        if old:
            raise LFMError(
                f"{file}: {name} has {', '.join(old)} of robosuite 0.3 and no actions; its controllers are not "
                "those of robosuite 1.x, record it anew"
            )
        raise LFMError(f"{file}: {name} has no actions; {hdf5.nearest('actions', demo)}")


def _read_robomimic(path: Path, name: str, demo: h5py.Group) -> Episode:
    length = len(hdf5.find_dataset(demo, "actions"))
    rows = {key: _rows(demo, key, length) for key in STANDARD if key in demo}
    others = {
        key: _rows(demo, key, length)
        for key, item in demo.items()
        if key not in STANDARD and isinstance(item, h5py.Dataset) and hdf5.is_low_dim(item) and len(item) == length
    }
    return Episode(
        rows["actions"],
        states=rows.get("states"),
        observations=_observations(demo, "obs", length),
        next_observations=_observations(demo, "next_obs", length),
        rewards=rows.get("rewards"),
        dones=rows.get("dones"),
        datasets=others,
        attrs=_attrs(path, demo),
    )


def _read_robosuite(path: Path, name: str, demo: h5py.Group) -> Episode:
    length = len(hdf5.find_dataset(demo, "actions"))
    rows = {key: _rows(demo, key, length) for key in ("actions", "states", "actions_abs") if key in demo}
    if "states" not in rows:
        raise LFMError(f"{path}: {name} has no states; {hdf5.nearest('states', demo)}")
    datasets = {key: rows[key] for key in ("actions_abs",) if key in rows}
    return Episode(rows["actions"], states=rows["states"], datasets=datasets, attrs=_attrs(path, demo))


def _rows(demo: h5py.Group, key: str, length: int) -> Array:
    dataset = hdf5.find_dataset(demo, key)
    if len(dataset) != length or not length:
        name = demo.name.rsplit("/", 1)[-1]
        raise LFMError(f"{demo.file.filename}: {name}/{key} has {len(dataset)} rows, actions {length}; repair it")
    values: Array = dataset[()]
    return values


def _observations(demo: h5py.Group, group: str, length: int) -> dict[str, Array]:
    """Every observation, images too; groups among them are left out."""
    items = demo[group].items() if isinstance(demo.get(group), h5py.Group) else ()
    observations = {}
    for key, item in items:
        if isinstance(item, h5py.Dataset):
            if not item.ndim or len(item) != length:
                where = f"{demo.file.filename}: {demo.name.rsplit('/', 1)[-1]}/{group}/{key}"
                raise LFMError(f"{where} has shape {item.shape}, actions {length} rows; repair it")
            observations[key] = item[()]
    return observations


def _attrs(path: Path, demo: h5py.Group) -> dict[str, Any]:
    attrs = {key: value for key, value in demo.attrs.items() if key != "num_samples"}
    model = attrs.pop("model_file", None)
    if model is None:
        return attrs
    text = model.decode() if isinstance(model, bytes) else str(model)
    if not text.lstrip().startswith("<"):
        file = path.parent / "models" / text
        if not file.is_file():
            return attrs
        text = file.read_text()
    return attrs | {"model_file": text}


def _env_info(recording: Recording) -> dict[str, Any]:
    env_args = recording.env_args
    if env_args.get("type", 1) != 1 or not env_args.get("env_name"):
        raise LFMError(
            f"{recording.path}: its env_args name no environment of robosuite; its demo.hdf5 holds nothing else"
        )
    kwargs: Mapping[str, Any] = env_args.get("env_kwargs") or {}
    rate = kwargs.get("control_freq") or PLAYBACK_HZ
    if rate != PLAYBACK_HZ:
        raise LFMError(
            f"{recording.path}: env_kwargs.control_freq is {rate}; robosuite plays its demo.hdf5 back at "
            f"{PLAYBACK_HZ} Hz and has no place for another rate; keep robomimic's layout"
        )
    kept = {key: value for key, value in kwargs.items() if key not in SET_BY_PLAYBACK}
    return {"env_name": str(env_args["env_name"]), **kept}


def _write_episode(group: h5py.Group, episode: Episode, source: Path) -> None:
    name = f"episode {group.name.rsplit('_', 1)[-1]}"
    if episode.states is None:
        raise LFMError(f"{source}: {name} has no states; robosuite's demo.hdf5 is made of them")
    if "model_file" not in episode.attrs:
        raise LFMError(f"{source}: {name} has no attribute model_file, which robosuite's playback needs")
    rows = {"states": episode.states, "actions": episode.actions}
    rows |= {key: episode.datasets[key] for key in ("actions_abs",) if key in episode.datasets}
    for key, values in rows.items():
        group.create_dataset(key, data=np.asarray(values, dtype=np.float64))
    for key, value in episode.attrs.items():
        group.attrs[key] = value


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LFMError(f"{path}: cannot be written ({error}); choose another place") from error


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise LFMError(f"{path}: exists already; choose another name or pass --overwrite true")
