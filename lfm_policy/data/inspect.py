"""Looking a dataset through: what is in it, and what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfm_policy.data import checks, hdf5
from lfm_policy.data.action_space import arm_controller, commands_are_absolute, same_version
from lfm_policy.data.checks import Array, Finding
from lfm_policy.data.goals import find_goals
from lfm_policy.data.object_layout import find_layout

# Rates of change jump where bodies touch; that is no fault.
RATE_KEYS = ("vel", "acc")


@dataclass(frozen=True)
class KeySummary:
    """One key of a dataset: shape of a step, dtype, range of its finite values (None for images)."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    n_demos: int


@dataclass(frozen=True)
class Report:
    """What is in a dataset and what is wrong with it; `environment` is what env_args say, in words."""

    path: Path
    n_bytes: int
    lengths: dict[str, int]
    keys: tuple[KeySummary, ...]
    masks: dict[str, int]
    env_args: dict[str, Any]
    environment: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def n_frames(self) -> int:
        return sum(self.lengths.values())

    def count(self, severity: str) -> int:
        """How many findings are of one severity."""
        return sum(finding.severity == severity for finding in self.findings)


@dataclass
class _Contents:
    """A whole file: key to demonstration to steps (low-dimensional keys), and to shapes (all keys)."""

    series: dict[str, dict[str, Array]]
    shapes: dict[str, dict[str, tuple[int, ...]]]
    dtypes: dict[str, str]
    lengths: dict[str, int]


def inspect_file(path: str | Path, installed: str | None = None) -> Report:
    """Read a dataset and check it; LFMError only if it is no robomimic HDF5 or cannot be read.

    `installed` is the version of robosuite to compare the recording's with, if there is one.
    """
    with hdf5.open_hdf5(path) as file:
        demos = hdf5.demo_names(file)
        masks, env_args = hdf5.masks(file), hdf5.read_env_args(file)
        contents = _read(file, demos)
        strategies = describe_strategies(file, demos)
        bookkeeping = _find_bookkeeping(file, contents.lengths, env_args, installed)
    keys = tuple(_summary(key, contents) for key in contents.shapes)
    findings = [
        *bookkeeping,
        *find_faults(contents.series, contents.shapes, contents.lengths, masks, env_args, installed),
    ]
    return Report(
        path=Path(path),
        n_bytes=Path(path).stat().st_size,
        lengths=contents.lengths,
        keys=keys,
        masks={key: len(names) for key, names in masks.items()},
        env_args=env_args,
        environment={**describe_environment(env_args), **strategies},
        findings=tuple(findings),
    )


def find_faults(
    series: Mapping[str, Mapping[str, Array]],
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
    lengths: Mapping[str, int],
    masks: Mapping[str, list[str]],
    env_args: Mapping[str, Any],
    installed: str | None = None,
) -> list[Finding]:
    """Every check in turn; a series that fails one on shapes or finite values is left out of the later ones."""
    findings: list[Finding] = []
    sound: dict[str, dict[str, Array]] = {}
    for key, shape in shapes.items():
        wrong = checks.find_shape_mismatch(key, shape, lengths)
        fitting = {demo: steps for demo, steps in series.get(key, {}).items() if not _about(wrong, demo)}
        not_finite = checks.find_not_finite(key, fitting)
        sound[key] = {demo: steps for demo, steps in fitting.items() if not _about(not_finite, demo)}
        findings += wrong + not_finite
    sound = {key: by_demo for key, by_demo in sound.items() if by_demo}
    conventions = find_goals(env_args, sound)
    goals = bool(conventions) or commands_are_absolute(env_args)
    findings += conventions + find_layout(env_args, sound, installed)
    observations = {key: by_demo for key, by_demo in sound.items() if key.startswith("obs/")}
    actions = {key: sound[key] for key in ("actions", "actions_abs") if key in sound}
    for key, by_demo in (observations | actions).items():
        findings += checks.find_constant(key, by_demo)
    if "actions" in sound:
        findings += checks.find_saturated("actions", sound["actions"], None if goals else command_bound(env_args))
        findings += _find_idle(sound["actions"], observations, goals)
    for key, by_demo in (observations | actions).items():
        if key != "actions" and not any(word in key for word in RATE_KEYS):
            findings += checks.find_jumps(key, by_demo) + checks.find_sign_flips(key, by_demo)
    findings += _find_copies(sound, observations, masks, list(lengths))
    findings += checks.find_length_outliers(lengths)
    if "rewards" in sound:
        findings += checks.find_no_success(sound["rewards"])
    if "dones" in sound:
        findings += checks.find_odd_dones(sound["dones"])
    return findings


def command_bound(env_args: Mapping[str, Any]) -> float | None:
    """The size to which the controller clips displacements; None for goals and where there is no controller."""
    arm = arm_controller((env_args.get("env_kwargs") or {}).get("controller_configs"))
    if arm is None or commands_are_absolute(env_args):
        return None
    bound = arm.get("input_max", 1)
    return float(bound) if isinstance(bound, int | float) else None


def describe_environment(env_args: Mapping[str, Any]) -> dict[str, str]:
    """The part of env_args that a user asks about, in words; empty without env_args."""
    if not env_args:
        return {}
    kwargs = env_args.get("env_kwargs") or {}
    arm = arm_controller(kwargs.get("controller_configs"))
    robots = kwargs.get("robots") or ()
    told = {
        "environment": str(env_args.get("env_name", "not said")),
        "recorded with": f"robosuite {env_args.get('env_version', 'of unknown version')}",
        "control": f"{kwargs['control_freq']} Hz" if "control_freq" in kwargs else "",
        "robots": robots if isinstance(robots, str) else ", ".join(robots),
    }
    if env_args.get("type", 1) != 1:
        told["recorded with"] = f"no robosuite (robomimic's type {env_args['type']})"
    if arm is not None:
        kind = "absolute" if commands_are_absolute(env_args) else "delta"
        told["actions"] = f"{kind}, {arm.get('type', 'OSC_POSE')}, frame {arm['input_ref_frame']}"
    return {name: text for name, text in told.items() if text}


def describe_strategies(file: h5py.File, demos: list[str]) -> dict[str, str]:
    """Which strategies a scripted expert chose, and in how many demonstrations; empty where none is told."""
    counts: dict[str, Counter[str]] = {}
    for demo in demos:
        for choice, value in _strategy(file["data"][demo].attrs.get("strategy", "{}")).items():
            counts.setdefault(f"strategy: {choice}" if choice else "strategy", Counter())[value] += 1
    return {
        choice: ", ".join(f"{value} {count}" for value, count in sorted(counted.items()))
        for choice, counted in counts.items()
    }


def _strategy(told: object) -> dict[str, str]:
    """Choices by their names, as our experts write them; what another recorder wrote is one of no name."""
    try:
        choices = json.loads(str(told))
    except ValueError:
        choices = told
    return {name: str(value) for name, value in (choices if isinstance(choices, dict) else {"": choices}).items()}


def _read(file: h5py.File, demos: list[str]) -> _Contents:
    """Everything but images and `next_obs`, whose values repeat those of `obs`."""
    contents = _Contents({}, {}, {}, {})
    for name in demos:
        for key, dataset in _datasets(file["data"][name]):
            contents.shapes.setdefault(key, {})[name] = dataset.shape
            contents.dtypes.setdefault(key, str(dataset.dtype))
            if hdf5.is_low_dim(dataset) and len(dataset) and not key.startswith("next_obs/"):
                steps = dataset[()].reshape(len(dataset), -1)
                contents.series.setdefault(key, {})[name] = steps.astype(np.float32, copy=False)
        shapes = [shape[name] for shape in contents.shapes.values() if name in shape]
        actions = contents.shapes.get("actions", {}).get(name)
        contents.lengths[name] = (actions or next(iter(shapes), (0,)))[0]
    return contents


def _datasets(group: h5py.Group, prefix: str = "") -> Iterable[tuple[str, h5py.Dataset]]:
    for key, item in group.items():
        if isinstance(item, h5py.Dataset) and item.ndim:
            yield prefix + key, item
        elif isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{key}/")


def _summary(key: str, contents: _Contents) -> KeySummary:
    shapes = contents.shapes[key]
    finite = [steps[np.isfinite(steps)] for steps in contents.series.get(key, {}).values()]
    finite = [values for values in finite if values.size]
    low = float(min(values.min() for values in finite)) if finite else None
    high = float(max(values.max() for values in finite)) if finite else None
    shape = next(iter(shapes.values()))[1:]
    return KeySummary(key, shape, contents.dtypes[key], low, high, len(shapes))


def _find_bookkeeping(
    file: h5py.File, lengths: Mapping[str, int], env_args: Mapping[str, Any], installed: str | None
) -> list[Finding]:
    """What is missing, or contradicts itself, in groups and attributes."""
    findings = [*_find_absent(file, "actions", list(lengths)), *_find_absent(file, "obs", list(lengths))]
    for demo, length in lengths.items():
        recorded = int(file["data"][demo].attrs.get("num_samples", length))
        if recorded != length:
            text = f"attribute num_samples is {recorded}, the demonstration has {length} steps"
            findings.append(Finding("bookkeeping", "warning", demo, text))
    if not env_args:
        text = "no env_args: no environment to roll out in or to replay in"
        findings.append(Finding("bookkeeping", "note", "", text))
    elif not env_args.get("env_version") and env_args.get("type", 1) == 1:
        text = "env_args do not say which robosuite it was recorded with"
        findings.append(Finding("bookkeeping", "note", "", text))
    elif not same_version(env_args, installed):
        text = f"recorded with robosuite {env_args['env_version']}, installed is {installed}"
        text += ": observations differ in order and sign, `lfm convert` makes them anew"
        findings.append(Finding("bookkeeping", "warning", "", text))
    return findings


def _find_absent(file: h5py.File, key: str, demos: list[str]) -> list[Finding]:
    absent = [demo for demo in demos if key not in file["data"][demo]]
    if len(absent) == len(demos):
        return [Finding("bookkeeping", "error", "", f"no demonstration has {key}: nothing to train on")]
    return [Finding("bookkeeping", "error", demo, f"has no {key}") for demo in absent]


def _find_idle(actions: Mapping[str, Array], observations: Mapping[str, Any], absolute: bool) -> list[Finding]:
    complete = [demo for demo in actions if all(demo in by_demo for by_demo in observations.values())]
    if not complete or not observations:
        return []
    seen = {demo: np.hstack([by_demo[demo] for by_demo in observations.values()]) for demo in complete}
    return checks.find_idle(checks.idle_steps({demo: actions[demo] for demo in complete}, seen, absolute))


def _find_copies(
    sound: Mapping[str, Mapping[str, Array]],
    observations: Mapping[str, Mapping[str, Array]],
    masks: Mapping[str, list[str]],
    demos: list[str],
) -> list[Finding]:
    actions = sound.get("actions", {})
    starts = {}
    for demo in actions:
        firsts = [by_demo[demo][0] for by_demo in observations.values() if demo in by_demo]
        # the states' first number is the time
        firsts += [sound["states"][demo][0, 1:]] if demo in sound.get("states", {}) else []
        starts[demo] = np.concatenate(firsts) if firsts else np.zeros(0)
    known = {demo: start for demo, start in starts.items() if len(start)}
    groups = checks.duplicate_groups(actions)
    findings = checks.find_duplicates({demo: actions[demo] for demo in known}, known)
    return findings + checks.find_leaks(masks, demos, groups)


def _about(findings: list[Finding], demo: str) -> bool:
    return any(finding.demo == demo for finding in findings)
