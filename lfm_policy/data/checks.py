"""What can be wrong with demonstrations: one pure function a fault, from arrays to findings.

A `Series` is one key of a dataset: demonstration name to its steps (T, D). The thresholds are the arguments'
defaults; each finding tells the numbers it rests on.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.normalizer import CONSTANT_RANGE

Array = NDArray[np.floating]
Series = Mapping[str, Array]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd: in one demonstration, or in all of them (`demo` is "")."""

    check: str
    severity: Severity
    demo: str
    text: str


def find_shape_mismatch(key: str, shapes: Mapping[str, tuple[int, ...]], lengths: Mapping[str, int]) -> list[Finding]:
    """Demonstrations that lack a key, have fewer or more steps in it than actions, or another width than most."""
    findings = [Finding("shapes", "error", demo, f"{key} is missing") for demo in lengths if demo not in shapes]
    usual = Counter(shape[1:] for shape in shapes.values()).most_common(1)
    for demo, shape in shapes.items():
        if shape[0] != lengths.get(demo, shape[0]):
            text = f"{key} has {shape[0]} steps, actions {lengths[demo]}"
            findings.append(Finding("shapes", "error", demo, text))
        elif shape[1:] != usual[0][0]:
            text = f"{key} has width {_width(shape)}, most demonstrations {_width((0, *usual[0][0]))}"
            findings.append(Finding("shapes", "error", demo, text))
    return findings


def find_not_finite(key: str, series: Series) -> list[Finding]:
    """NaN and infinity, with the first place of each demonstration."""
    findings = []
    for demo, steps in series.items():
        places = np.argwhere(~np.isfinite(steps))
        if len(places):
            step, dimension = places[0]
            text = f"{key} is {steps[step, dimension]} at step {step}, dimension {dimension}"
            more = f", {_count(len(places), 'value')} in all" if len(places) > 1 else ""
            findings.append(Finding("not finite", "error", demo, text + more))
    return findings


def find_constant(key: str, series: Series, threshold: float = CONSTANT_RANGE) -> list[Finding]:
    """Dimensions whose range over all demonstrations is below the threshold that the normaliser uses."""
    low, high = limits(series)
    constant = np.flatnonzero(high - low < threshold)
    if not len(constant):
        return []
    values = ", ".join(f"{(low[index] + high[index]) / 2:.4g}" for index in constant[:4])
    values += ", …" if len(constant) > 4 else ""
    text = f"{key}: {_dimensions(constant)} never {'vary' if len(constant) > 1 else 'varies'} ({values})"
    return [Finding("constant dimensions", "note", "", text)]


def find_saturated(key: str, series: Series, bound: float | None = None, share: float = 0.05) -> list[Finding]:
    """Dimensions that spend more than `share` of all steps at their largest or smallest value.

    These values are the data's own, or `bound` and -`bound`, to which the controller clips, where the data go
    beyond. Dimensions with two values (a gripper command) are switches, not saturated.
    """
    low, high = limits(series)
    reach = np.inf if bound is None else bound
    steps, bottom, top = np.concatenate(list(series.values())), np.maximum(low, -reach), np.minimum(high, reach)
    margin = 1e-6 * (high - low)
    saturated = ((steps <= bottom + margin) | (steps >= top - margin)).mean(0)
    skipped = switches(series) | (high - low < CONSTANT_RANGE)
    findings = []
    for index in np.flatnonzero((saturated > share) & ~skipped):
        text = (
            f"{key}, dimension {index}: {saturated[index]:.0%} of the steps at {bottom[index]:.3g} or {top[index]:.3g}"
        )
        if low[index] < bottom[index] or high[index] > top[index]:
            text += f", to which the controller clips {low[index]:.3g} to {high[index]:.3g}"
        findings.append(Finding("saturated actions", "warning", "", text))
    return findings


def idle_steps(
    actions: Series, observations: Series, absolute: bool, tiny: float = 0.01
) -> dict[str, NDArray[np.bool_]]:
    """Where neither the action asks for a motion nor anything moves: demonstration to (T,).

    Tiny is `tiny` of a dimension's range (delta actions: of its largest size) in an action, half of that in the
    change of an observation. A switch that turns is never idle.
    """
    switch = switches(actions)
    low, high = limits(actions)
    reach = (high - low) if absolute else np.maximum(np.abs(low), np.abs(high))
    obs_low, obs_high = limits(observations)
    idle = {}
    for demo, steps in actions.items():
        change = np.abs(np.diff(steps, axis=0, prepend=steps[:1]))
        asked = np.where(switch, change > 0, (change if absolute else np.abs(steps)) > tiny * reach)
        seen = observations[demo]
        moved = np.abs(np.diff(seen, axis=0, append=seen[-1:])) > tiny / 2 * (obs_high - obs_low)
        idle[demo] = ~asked.any(1) & ~moved.any(1)
    return idle


def find_idle(idle: Mapping[str, NDArray[np.bool_]], steps: int = 10, share: float = 0.05) -> list[Finding]:
    """Waiting at the start or the end of a demonstration (`steps` or more), and idleness over all of them."""
    findings = []
    for demo, flags in idle.items():
        # position of the first step that is not idle, from either end
        start, end = (int(np.argmin(np.append(run, False))) for run in (flags, flags[::-1]))
        if start == len(flags):
            findings.append(Finding("idle steps", "warning", demo, f"idle in all {start} steps"))
            continue
        for run, where in ((start, "first"), (end, "last")):
            if run >= steps:
                findings.append(Finding("idle steps", "warning", demo, f"idle in its {where} {run} steps"))
    total = float(np.concatenate(list(idle.values())).mean())
    if total > share:
        text = f"{total:.0%} of all steps are idle: no action, no motion"
        findings.insert(0, Finding("idle steps", "warning", "", text))
    return findings


def find_jumps(key: str, series: Series, ratio: float = 5, share: float = 0.3) -> list[Finding]:
    """Steps in which a dimension moves far, and far more than in the steps around it.

    Far is more than `share` of its range; more is `ratio` times the second largest of the three changes before
    and the three after it (so that a single wrong frame, a jump there and back, is found too). Switches are left
    out, and jumps from x to -x, which `find_sign_flips` tells of. What jumps in the first step of most
    demonstrations is told once: objects that fall into place (a note), or zeros, read before they were filled.
    """
    jumps = list(_jumps(series, ratio, share, flipped=False))
    first = [jump for jump in jumps if jump[1] == 0]
    usual = len(first) > max(2, len(series) / 2)
    findings = [_jump(key, demo, series[demo], step, at) for demo, step, at in jumps if not (usual and step == 0)]
    if usual:
        demo, step, at = first[0]
        example = _jump(key, demo, series[demo], step, at)
        text = f"{example.text} in {demo}, and the like in {len(first)} of {_count(len(series), 'demonstration')}"
        severity: Severity = "note" if series[demo][0, at].any() else "warning"
        findings.insert(0, Finding(example.check, severity, "", text))
    return findings


def find_sign_flips(key: str, series: Series, ratio: float = 5, share: float = 0.3) -> list[Finding]:
    """Jumps from x to -x: quaternions of either sign, rotation vectors that pass the length pi."""
    flips = list(_jumps(series, ratio, share, flipped=True))
    if not flips:
        return []
    demo, step, _ = flips[0]
    dimensions = _dimensions(np.flatnonzero(np.any([jumped for _, _, jumped in flips], axis=0)))
    n_demos = len({flip[0] for flip in flips})
    text = f"{key}: x jumps to -x in {dimensions}, {_count(len(flips), 'time')} in {_count(n_demos, 'demonstration')}"
    text += f", first in {demo}, step {step} to {step + 1}"
    return [Finding("sign flips", "note", "", text)]


def _jumps(series: Series, ratio: float, share: float, flipped: bool) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    """Demonstration, step and the dimensions that jump; only sign flips, or all but these."""
    low, high = limits(series)
    skipped = switches(series) | (high - low < CONSTANT_RANGE)
    for demo, steps in series.items():
        change = np.abs(np.diff(steps, axis=0))
        if len(change) < 4:
            continue
        jumped = (change > ratio * _around(change)) & (change > share * (high - low)) & ~skipped
        for step in np.flatnonzero(jumped.any(1)):
            at = jumped[step]
            several = at.sum() > 1 and _mirrored(steps[step, at], steps[step + 1, at])
            whole = steps.shape[1] > 1 and _mirrored(steps[step], steps[step + 1])
            if (several or whole) == flipped:
                yield demo, int(step), at


def _mirrored(before: Array, after: Array) -> bool:
    return bool(np.abs(after + before).max() < 0.2 * np.abs(after - before).max())


def _around(change: Array) -> Array:
    """The second largest of the three changes before and after each of four or more, (T - 1, D)."""
    padded = np.pad(change, ((3, 3), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=0)
    # mirrored at the ends, where every neighbour hence counts twice: there it is the largest
    return np.sort(windows[..., [0, 1, 2, 4, 5, 6]], axis=-1)[..., -2]


def _jump(key: str, demo: str, steps: Array, step: int, jumped: NDArray[np.bool_]) -> Finding:
    before, after = steps[step, jumped], steps[step + 1, jumped]
    where = f"{key}, {_dimensions(np.flatnonzero(jumped))}, step {step} to {step + 1}"
    if step == 0 and not before.any():
        return Finding("jumps", "warning", demo, f"{where}: zero at first, as if read before it was filled")
    largest = int(np.argmax(np.abs(after - before)))
    return Finding("jumps", "warning", demo, f"{where}: from {before[largest]:.4g} to {after[largest]:.4g}")


def duplicate_groups(actions: Series) -> list[tuple[str, ...]]:
    """Demonstrations with the same actions, number for number."""
    by_hash: dict[bytes, list[str]] = defaultdict(list)
    for demo, steps in actions.items():
        by_hash[
            hashlib.sha256(np.ascontiguousarray(steps).tobytes() + bytes(str(steps.shape), "ascii")).digest()
        ].append(demo)
    return [tuple(group) for group in by_hash.values() if len(group) > 1]


def find_duplicates(actions: Series, starts: Mapping[str, Array]) -> list[Finding]:
    """Demonstrations with equal actions, and those that only begin alike; `starts` is the first state of each."""
    groups = duplicate_groups(actions)
    findings = []
    for group in groups:
        alike = all(np.array_equal(starts[group[0]], starts[demo]) for demo in group)
        text = f"equal actions in {', '.join(group)}, from {'the same state' if alike else 'different states'}"
        findings.append(Finding("duplicates", "warning", "", text))
    for group in duplicate_groups({demo: start[None] for demo, start in starts.items()}):
        if not any(set(group) <= set(other) for other in groups):
            text = f"{', '.join(group)} begin in the same state, with other actions"
            findings.append(Finding("duplicates", "note", "", text))
    return findings


def find_length_outliers(lengths: Mapping[str, int], limit: float = 5) -> list[Finding]:
    """Demonstrations far longer or shorter than the median, in units of the (robust) spread."""
    values = np.array(list(lengths.values()))
    median = float(np.median(values))
    # a spread of nothing, or of a tenth of the length, makes no outlier of a step more
    spread = max(1.4826 * float(np.median(np.abs(values - median))), 0.1 * median, 1.0)
    return [
        Finding("length outliers", "warning", demo, f"{length} steps, where the median is {median:.0f}")
        for demo, length in lengths.items()
        if abs(length - median) > limit * spread
    ]


def find_leaks(
    masks: Mapping[str, Sequence[str]], demos: Sequence[str], duplicates: Sequence[Sequence[str]]
) -> list[Finding]:
    """Filter keys that name what is not there, and validation episodes that are trained on, or a copy of one."""
    findings = []
    for key, names in masks.items():
        strangers = sorted(set(names) - set(demos))
        if strangers:
            text = f"mask/{key} names {_some(strangers)}, which the file has not"
            findings.append(Finding("leaks", "error", "", text))
    for train_key in (key for key in masks if key.endswith("train")):
        valid_key = train_key.removesuffix("train") + "valid"
        train, valid = set(masks[train_key]), set(masks.get(valid_key, ()))
        if train & valid:
            text = f"{_some(sorted(train & valid))} in both mask/{train_key} and mask/{valid_key}"
            findings.append(Finding("leaks", "error", "", text))
        for group in duplicates:
            trained, validated = set(group) & train - valid, set(group) & valid - train
            if trained and validated:
                text = f"{_some(sorted(validated))} of mask/{valid_key} equals {_some(sorted(trained))} to train on"
                findings.append(Finding("leaks", "error", "", text))
    return findings


def find_no_success(rewards: Series) -> list[Finding]:
    """Demonstrations in which no step has a reward above 0."""
    failed = [demo for demo, steps in rewards.items() if not (steps > 0).any()]
    if failed and len(failed) == len(rewards):
        return [Finding("rewards", "warning", "", "no demonstration has a reward above 0")]
    return [Finding("rewards", "warning", demo, "no step has a reward above 0: no success") for demo in failed]


def find_odd_dones(dones: Series) -> list[Finding]:
    """Demonstrations whose last step is not done, or that go on after a step that is."""
    open_end = [demo for demo, steps in dones.items() if not steps[-1].any()]
    findings = []
    if open_end and len(open_end) == len(dones):
        findings.append(Finding("dones", "note", "", "no demonstration is done in its last step"))
    elif open_end:
        findings += [Finding("dones", "note", demo, "is not done in its last step") for demo in open_end]
    for demo, steps in dones.items():
        done = steps.any(axis=1)
        resumed = np.flatnonzero(done[:-1] & ~done[1:])
        if len(resumed):
            text = f"is done at step {resumed[0]} and goes on for {len(done) - 1 - resumed[0]} steps"
            findings.append(Finding("dones", "note", demo, text))
    return findings


def limits(series: Series) -> tuple[Array, Array]:
    """Smallest and largest value of each dimension over all demonstrations."""
    low = np.min([steps.min(0) for steps in series.values()], axis=0)
    return low, np.max([steps.max(0) for steps in series.values()], axis=0)


def switches(series: Series) -> NDArray[np.bool_]:
    """Dimensions that hold two values at most, as gripper commands and flags do."""
    low, high = limits(series)
    return np.all([((steps == low) | (steps == high)).all(0) for steps in series.values()], axis=0)


def _dimensions(indices: Sequence[int] | NDArray[np.integer]) -> str:
    """`dimension 3`, `dimensions 0, 4-6`."""
    runs: list[list[int]] = []
    for index in map(int, indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    listed = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"dimension{'s' if len(indices) > 1 else ''} {listed}"


def _width(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[1:])) or "1"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
