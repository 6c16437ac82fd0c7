"""What rows of several policies on the same episodes say about them: pure functions from rows to a `Comparison`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.evaluation.crossed import crossed_mean
from lfm_policy.evaluation.episode import Row
from lfm_policy.evaluation.paired import PairedCounts, episodes_needed, holm, mcnemar, newcombe, sign_flips
from lfm_policy.evaluation.statistics import mean_interval, percentiles_ms, wilson, wilson_rate
from lfm_policy.flow.errors import LFMError

ALPHA = 0.05
# networks of equal weights differ by so much in their multiply-adds: one wide network has more than N narrow ones
ARITHMETIC = 0.15
Interval = tuple[float, float]


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's rollouts: rows with `chunk_seconds` and `wall_seconds`, and whose they are.

    label: `name` or `name@point`, the points of one name being its budgets or samplers. training_seed: None where
    unknown. step: optimiser steps per sub-flow; epochs: the same in passes over the data, where known.
    identity: the first line of the rows' file.
    """

    label: str
    rows: Sequence[Row]
    identity: Mapping[str, Any] = field(default_factory=dict)
    training_seed: int | None = None
    nfe: int | None = None
    multiply_adds: int | None = None
    step: float | None = None
    epochs: float | None = None
    path: str = ""
    rows_file: str = ""

    @property
    def temperature(self) -> float | None:
        """Of the noise that its chunks begin from, None where there is none."""
        sampler = self.identity.get("checkpoint", {}).get("sampler") or {}
        if "temperature" not in sampler:
            return None
        return 1.0 if sampler["temperature"] is None else float(sampler["temperature"])


@dataclass(frozen=True)
class Figure:
    """A mean over episodes, and training runs if several, with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Method:
    """What one label came to. `score`: mean of each episode's highest reward, where not all of all labels are 0 or 1.

    seconds: of an episode, by where they go. steps_per_second: of the simulator alone, and of the whole rollout.
    """

    label: str
    runs: tuple[Evaluated, ...]
    success: Figure
    score: Figure | None
    latency_ms: dict[str, float | None]
    seconds: dict[str, float]
    steps_per_second: dict[str, float]

    @property
    def name(self) -> str:
        """The label without its point."""
        return self.label.partition("@")[0]

    @property
    def point(self) -> str:
        """What tells labels of one name apart."""
        return self.label.partition("@")[2]

    @property
    def first(self) -> Evaluated:
        """Its first run, for what all of them share."""
        return self.runs[0]


@dataclass(frozen=True)
class Difference:
    """A mean of the first less that of the second on the same episodes: interval, raw p, and Holm's over all pairs."""

    value: float
    interval: Interval
    p: float
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the corrected test says so."""
        if self.p_holm >= ALPHA or not self.value:
            return "not told apart"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True)
class RunPair:
    """Two training runs on the same episodes."""

    training_seeds: tuple[int | None, int | None]
    counts: PairedCounts
    interval: Interval
    p: float


@dataclass(frozen=True)
class Pair:
    """Two labels on the same episodes.

    runs: their training runs, paired in order where both have as many, else none. episodes: how many would tell them
    apart in all with 80 % power at 5 % over all pairs, None if no number would. is_exact: whether each is one training
    run, so that success is tested exactly.
    """

    labels: tuple[str, str]
    success: Difference
    score: Difference | None
    runs: tuple[RunPair, ...]
    episodes: int | None
    is_exact: bool

    def further_episodes(self, n: int) -> int | None:
        """Episodes beyond the `n` there are that would tell them apart: 0 where they are, None if no number would."""
        if self.success.verdict != "not told apart":
            return 0
        return None if self.episodes is None else max(self.episodes - n, 1)


@dataclass(frozen=True)
class Comparison:
    """Labels on the same seeds, the pairs among them, and what a reader has to know."""

    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def method(self, label: str) -> Method:
        """The method of that label."""
        return next(method for method in self.methods if method.label == label)


def compare(
    methods: Mapping[str, Sequence[Evaluated]], baseline: str | None = None, notes: Sequence[str] = ()
) -> Comparison:
    """Compare labels, each with one rollout set a training run, all on the same seeds.

    Pairs are of labels that differ in one thing only (see `differ_in_one_thing`); with `baseline`, a label or a
    name, those with it. LFMError where seeds differ or the baseline is none of them.
    """
    seeds = _seeds(methods)
    scored = any(_has_score(runs) for runs in methods.values())
    compared = tuple(_method(label, tuple(runs), seeds, scored) for label, runs in methods.items())
    bare = {method.name for method in compared if not method.point}
    chosen = [
        (a, b)
        for a, b in itertools.combinations(compared, 2)
        if differ_in_one_thing(a, b, bare) and _has(baseline, a, b)
    ]
    if baseline is not None:
        if not any(baseline in (method.label, method.name) for method in compared):
            raise LFMError(f"--baseline {baseline}: is not compared; choose from {', '.join(methods)}")
        # the baseline stands second: a positive difference is a gain over it
        chosen = [(b, a) if _is_baseline(baseline, a, b) else (a, b) for a, b in chosen]
    pairs = [_pair(a, b, seeds, ALPHA / len(chosen)) for a, b in chosen]
    return Comparison(seeds, compared, tuple(_corrected(pairs)), tuple(notes))


def differ_in_one_thing(a: Method, b: Method, bare: Collection[str]) -> bool:
    """Whether a pair says something: equal points, or one of name, training, evaluations and temperature differs.

    Policies without noise have any temperature. Of two names with different points, temperature and training must be
    equal, and evaluations or multiply-adds of a chunk. A label without a point meets one with a point only if the
    other name has no label without: `bare` are names that have.
    """
    first, second = a.first, b.first
    warm = None in (first.temperature, second.temperature) or first.temperature == second.temperature
    here, there = (_place(a), _place(b)) if warm else (a.point, b.point)
    if here == there:
        return True
    trained, nfe = _equal(first.step, second.step), _equal(first.nfe, second.nfe)
    if a.name == b.name:
        return (trained, nfe, warm).count(False) <= 1
    if not (here and there):
        return warm and not {a.name, b.name} <= set(bare)
    return trained and warm and (nfe or _equal(first.multiply_adds, second.multiply_adds, ARITHMETIC))


def temperature_point(temperature: float) -> str:
    """What a label says of a temperature: `temperature0.5`."""
    return f"temperature{temperature:.15g}"


def _place(method: Method) -> str:
    """The point without its temperature."""
    warmth = method.first.temperature
    return method.point if warmth is None else method.point.removesuffix(temperature_point(warmth)).rstrip(".")


def _equal(x: float | None, y: float | None, within: float = 0.02) -> bool:
    """Of budgets."""
    return x == y if x is None or y is None else math.isclose(x, y, rel_tol=within)


def _is_baseline(baseline: str, a: Method, b: Method) -> bool:
    return a.label == baseline or (a.name == baseline and b.label != baseline)


def _has(baseline: str | None, a: Method, b: Method) -> bool:
    if baseline is None or baseline in (a.label, b.label):
        return True
    return (a.name == baseline) != (b.name == baseline)


def _seeds(methods: Mapping[str, Sequence[Evaluated]]) -> tuple[int, ...]:
    listed = [run for runs in methods.values() for run in runs]
    if not listed:
        raise LFMError("compare: no policies given; give two or more")
    seeds = tuple(row["seed"] for row in listed[0].rows)
    for run in listed:
        other = [row["seed"] for row in run.rows]
        unpaired = sorted(set(seeds) ^ set(other))
        if unpaired or len(other) != len(set(other)) or not other:
            told = f"seeds {', '.join(map(str, unpaired[:5]))}" if unpaired else "a seed twice, or none"
            raise LFMError(
                f"compare: {listed[0].label} and {run.label} are not paired ({told}); roll out the same seeds"
            )
    return seeds


def _values(run: Evaluated, key: str, seeds: Sequence[int]) -> NDArray[np.float64]:
    by_seed = {row["seed"]: float(row[key]) for row in run.rows}
    return np.array([by_seed[seed] for seed in seeds])


def _grid(runs: Sequence[Evaluated], key: str, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Values (runs, episodes)."""
    return np.stack([_values(run, key, seeds) for run in runs])


def _method(label: str, runs: tuple[Evaluated, ...], seeds: Sequence[int], scored: bool) -> Method:
    rows = [row for run in runs for row in run.rows]
    seconds, steps = _seconds(rows), sum(row["steps"] for row in rows) / len(rows)
    return Method(
        label,
        runs,
        _success(_grid(runs, "success", seeds)),
        _score(_grid(runs, "max_reward", seeds)) if scored else None,
        percentiles_ms([second for row in rows for second in row["chunk_seconds"]]),
        seconds,
        {
            "simulator": round(steps / max(seconds["simulation"], 1e-9), 1),
            "rollout": round(steps / max(sum(seconds.values()), 1e-9), 1),
        },
    )


def _has_score(runs: Sequence[Evaluated]) -> bool:
    return any(row["max_reward"] not in (0, 1) for run in runs for row in run.rows)


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Mean seconds of an episode in the simulator, in the policy's networks, and in all else."""
    simulation = float(np.mean([row["env_seconds"] for row in rows]))
    inference = float(np.mean([sum(row["chunk_seconds"]) for row in rows]))
    rest = max(float(np.mean([row["wall_seconds"] for row in rows])) - simulation - inference, 0.0)
    return {"simulation": simulation, "inference": inference, "rest": rest}


def _success(values: NDArray[np.float64]) -> Figure:
    """Wilson's interval; for several runs (rows of `values`) with as many episodes as their spread is worth."""
    rate, n = float(values.mean()), values.shape[1]
    if len(values) == 1:
        return Figure(rate, wilson(int(values.sum()), n))
    mean = crossed_mean((1.0, values))
    if not mean.variance:
        return Figure(rate, wilson_rate(rate, n))
    low, high = mean.interval()
    # Student's half-width as that of a normal one, so that few runs count for fewer episodes still
    variance = ((high - low) / 2 / 1.959964) ** 2
    return Figure(rate, wilson_rate(rate, min(rate * (1 - rate) / variance, values.size)))


def _score(values: NDArray[np.float64]) -> Figure:
    if len(values) == 1:
        return Figure(float(values.mean()), mean_interval(values[0].tolist()))
    mean = crossed_mean((1.0, values))
    return Figure(mean.value, mean.interval())


def _pair(a: Method, b: Method, seeds: Sequence[int], alpha: float) -> Pair:
    runs = tuple(_run_pair(left, right, seeds) for left, right in zip(a.runs, b.runs, strict=False))
    single, interval = len(a.runs) == len(b.runs) == 1, runs[0].interval
    runs = runs if len(a.runs) == len(b.runs) else ()
    score = None if a.score is None else _score_difference(a, b, seeds, single)
    if single:
        counts = runs[0].counts
        success, needed = (
            Difference(counts.difference, interval, runs[0].p),
            episodes_needed(counts, alpha=alpha),
        )
        return Pair((a.label, b.label), success, score, runs, needed, True)
    mean = crossed_mean((1.0, _grid(a.runs, "success", seeds)), (-1.0, _grid(b.runs, "success", seeds)))
    low, high = mean.interval() if mean.variance else interval  # every run and episode alike
    success = Difference(mean.value, (max(low, -1.0), min(high, 1.0)), mean.p_value)
    return Pair((a.label, b.label), success, score, runs, mean.episodes_needed(alpha=alpha), False)


def _run_pair(a: Evaluated, b: Evaluated, seeds: Sequence[int]) -> RunPair:
    left, right = (_values(run, "success", seeds).astype(bool).tolist() for run in (a, b))
    counts = PairedCounts.of(left, right)
    return RunPair((a.training_seed, b.training_seed), counts, newcombe(counts), mcnemar(counts))


def _score_difference(a: Method, b: Method, seeds: Sequence[int], single: bool) -> Difference:
    left, right = _grid(a.runs, "max_reward", seeds), _grid(b.runs, "max_reward", seeds)
    if single:
        values = (left - right)[0].tolist()
        return Difference(float(np.mean(values)), mean_interval(values), sign_flips(values))
    mean = crossed_mean((1.0, left), (-1.0, right))
    return Difference(mean.value, mean.interval(), mean.p_value)


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with Holm's correction, over all of them, for successes and for scores."""
    success = holm([pair.success.p for pair in pairs])
    pairs = [replace(pair, success=replace(pair.success, p_holm=p)) for pair, p in zip(pairs, success, strict=True)]
    scores = iter(holm([pair.score.p for pair in pairs if pair.score is not None]))
    return [
        pair if pair.score is None else replace(pair, score=replace(pair.score, p_holm=next(scores))) for pair in pairs
    ]
