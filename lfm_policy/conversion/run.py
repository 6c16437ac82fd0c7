"""A conversion from file to file: which reader, whether states are replayed, which writer."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lfm_policy.conversion.arrays import Columns, read_arrays, to_arrays
from lfm_policy.conversion.env_args import modernise
from lfm_policy.conversion.recording import Episode, Recording
from lfm_policy.conversion.replayed import Replayer, can_replay
from lfm_policy.conversion.robosuite_files import read_hdf5, write_robosuite
from lfm_policy.conversion.stores import is_zarr, open_zarr, read_npz, write_npz, write_zarr
from lfm_policy.data.hdf5 import SOURCE
from lfm_policy.data.writer import DatasetWriter
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.executor import map_seeds
from lfm_policy.flow.errors import LFMError
from lfm_policy.progress import progress_bar

Layout = Literal["robomimic", "robosuite", "npz", "zarr"]


@dataclass(frozen=True)
class Conversion:
    """What to convert and how.

    env: the environment of the episodes, where the file tells none or another one is wanted; columns: what the
    arrays of an npz file or a zarr store mean; replay: restore states and observe anew, None where that is
    possible and the output is robomimic's.
    """

    source: Path
    output: Path
    layout: Layout
    env: EnvSpec = field(default_factory=EnvSpec)
    columns: Columns = field(default_factory=Columns)
    replay: bool | None = None
    n_procs: int = 1
    valid_fraction: float = 0.1
    overwrite: bool = False


@dataclass
class Summary:
    """What a conversion came to: counts, and of replays the environment, successes and refused models."""

    layout: str
    n_episodes: int = 0
    n_frames: int = 0
    env_id: str = ""
    n_success: int = 0
    best_rewards: list[float] = field(default_factory=list)
    refusal: str = ""


@dataclass(frozen=True)
class ReplayJob:
    """All that a process needs to replay episodes; called in that process it gives the task."""

    conversion: Conversion
    env: EnvSpec

    def __call__(self) -> ReplayTask:
        return ReplayTask(self)


class ReplayTask:
    """An open recording and a simulator; called with an episode's number, that episode seen again."""

    def __init__(self, job: ReplayJob) -> None:
        self._open = contextlib.ExitStack()
        self.recording = self._open.enter_context(open_recording(job.conversion))
        self.replayer = Replayer(job.env.make)

    def __call__(self, seed: int) -> tuple[Episode, bool, str]:
        name = self.recording.names[seed]
        try:
            episode = self.replayer(name, self.recording.read(name))
            return episode, self.replayer.succeeded, self.replayer.refusal
        except LFMError as error:
            raise LFMError(f"{self.recording.path}: {error}") from error

    def close(self) -> None:
        self.replayer.close()
        self._open.close()


def convert(conversion: Conversion, progress: bool = False) -> Summary:
    """Write `output`, whole or not at all. LFMError for what cannot be read, replayed or written."""
    with open_recording(conversion) as recording:
        env = _environment(conversion, recording)
        summary = Summary(recording.layout)
        if env is not None:
            recording = replace(recording, env_args=env[1])
            summary.env_id = env[0].env_id
            episodes = _replayed(conversion, env[0], len(recording.names), summary)
        else:
            episodes = (episode for _, episode in recording.episodes())
        with contextlib.closing(episodes), progress_bar("episodes", len(recording.names), progress) as bar:
            _write(conversion, recording, _counted(episodes, summary, bar))
    return summary


@contextlib.contextmanager
def open_recording(conversion: Conversion) -> Iterator[Recording]:
    """The source by its suffix and content; LFMError if there is none, or it is of no known layout."""
    path = conversion.source
    if not path.exists():
        raise LFMError(f"{path}: no such file; give a recording in HDF5, npz or zarr")
    if is_zarr(path):
        with open_zarr(path) as arrays:
            yield read_arrays(path, arrays, conversion.columns, "zarr store")
    elif path.suffix == ".npz":
        yield read_arrays(path, read_npz(path), conversion.columns, "npz arrays")
    elif path.suffix in (".hdf5", ".h5"):
        yield read_hdf5(path)
    else:
        raise LFMError(f"{path}: is neither .hdf5, .npz, .zarr nor .zarr.zip, which is how layouts are told apart")


def _environment(conversion: Conversion, recording: Recording) -> tuple[EnvSpec, dict[str, Any]] | None:
    """The environment to replay in with its env_args; None where nothing is replayed."""
    told = modernise(recording.env_args)
    if conversion.replay is False or (conversion.replay is None and conversion.layout != "robomimic"):
        return None
    if not told and not conversion.env.env_id:
        if conversion.replay:
            raise LFMError(f"{recording.path}: names no environment to replay its states in; give --env_id")
        return None
    own = EnvSpec.of_env_args(told, recording.path) if told else EnvSpec()
    env = conversion.env.over(own)
    with contextlib.closing(env.make()) as made:
        if can_replay(made):
            return env, env.env_args(made)
    if conversion.replay:
        raise LFMError(f"environment {env.env_id}: shows no stored states, so nothing can be replayed in it")
    return None


def _replayed(conversion: Conversion, env: EnvSpec, count: int, summary: Summary) -> Generator[Episode]:
    results = map_seeds(ReplayJob(conversion, env), range(count), conversion.n_procs)
    with contextlib.closing(results):
        for episode, succeeded, refusal in results:
            summary.refusal = summary.refusal or refusal
            summary.n_success += succeeded
            assert episode.rewards is not None
            summary.best_rewards.append(float(episode.rewards.max()))
            yield episode


def _counted(episodes: Iterator[Episode], summary: Summary, bar: Any) -> Iterator[Episode]:
    for episode in episodes:
        yield episode
        summary.n_episodes += 1
        summary.n_frames += len(episode.actions)
        bar.update()


def _write(conversion: Conversion, recording: Recording, episodes: Iterator[Episode]) -> None:
    path, overwrite = conversion.output, conversion.overwrite
    if conversion.layout == "robomimic":
        _write_robomimic(conversion, recording, episodes)
    elif conversion.layout == "robosuite":
        write_robosuite(path, recording, episodes, overwrite)
    elif conversion.layout == "npz":
        write_npz(path, to_arrays(recording, episodes))
    else:
        write_zarr(path, to_arrays(recording, episodes))


def _write_robomimic(conversion: Conversion, recording: Recording, episodes: Iterator[Episode]) -> None:
    options: dict[str, Any] = {"overwrite": conversion.overwrite, "valid_fraction": conversion.valid_fraction}
    options["masks"] = _renamed(recording.names, recording.masks)
    options["attrs"] = {SOURCE: conversion.source.name}
    with DatasetWriter(conversion.output, recording.env_args, **options) as writer:
        for episode in episodes:
            if not episode.observations:
                raise LFMError(
                    f"{recording.path}: holds no observations; give --observation, or --env_id of an environment "
                    "that shows its states"
                )
            attrs, datasets = dict(episode.attrs), dict[str, Any](episode.datasets)
            writer.add_episode(
                episode.observations,
                episode.actions,
                episode.rewards,
                episode.dones,
                states=episode.states,
                model_file=attrs.pop("model_file", None),
                next_obs=episode.next_observations or None,
                attrs=attrs,
                **datasets,
            )


def _renamed(names: Sequence[str], masks: Any) -> dict[str, list[str]]:
    """Filter keys by the names that `DatasetWriter` gives."""
    new = {name: f"demo_{index}" for index, name in enumerate(names)}
    return {key: [new[name] for name in chosen if name in new] for key, chosen in masks.items()}
