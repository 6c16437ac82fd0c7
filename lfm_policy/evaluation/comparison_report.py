"""A comparison as text of at most 120 columns, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lfm_policy.evaluation.comparison import Comparison, Difference, Evaluated, Figure, Interval, Method, Pair

WIDTH = 120


def report(comparison: Comparison) -> str:
    """The comparison's tables, what the tests are, and what may be concluded."""
    parts = [
        "\n".join(line for text in heading(comparison).splitlines() for line in textwrap.wrap(text, WIDTH)),
        "\n".join(table(_method_rows(comparison))),
        *(["\n".join(table(_run_rows(comparison)))] if any(len(m.runs) > 1 for m in comparison.methods) else []),
        *(["\n".join(table(_pair_rows(comparison)))] if comparison.pairs else []),
        *(["\n".join(table(_score_rows(comparison)))] if any(pair.score for pair in comparison.pairs) else []),
        "\n".join(line for note in _notes(comparison) for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")),
    ]
    return "\n\n".join(parts) + "\n"


def heading(comparison: Comparison) -> str:
    """Environment, episodes, seeds, training runs: what every number below is of."""
    seeds, env = comparison.seeds, comparison.methods[0].first.identity.get("environment", {})
    where = f"{env.get('env_id', 'one environment')}"
    if env.get("max_steps"):
        where += f", at most {env['max_steps']} steps"
    what = f"{len(seeds)} paired episode{'s' * (len(seeds) > 1)}"
    return f"{where}\n{what}, seeds {seeds[0]} to {seeds[-1]}; {training_runs(comparison)}"


def training_runs(comparison: Comparison) -> str:
    """How many training runs there are of each method."""
    counts = {method.label: len(method.runs) for method in comparison.methods}
    if len(set(counts.values())) == 1:
        count = len(comparison.methods[0].runs)
        return f"{count} training run{'s' * (count > 1)} each"
    return "training runs: " + ", ".join(f"{label} {count}" for label, count in counts.items())


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns under a head, the first to the left; where they are too wide, that has lines of its own."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = [f"{row[0]:<{widths[0]}}" for row in rows]
    values = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True)) for row in rows]
    if widths[0] + 2 + len(values[0]) <= WIDTH:
        lines = [f"{name}  {value}" for name, value in zip(names, values, strict=True)]
        return [lines[0], "-" * len(lines[0]), *lines[1:]]
    lines = [line for pair in zip(names, values, strict=True) for line in (pair[0].rstrip(), f"    {pair[1]}")]
    return [*lines[:2], "-" * max(map(len, lines)), *lines[2:]]


def _method_rows(comparison: Comparison) -> list[list[str]]:
    scored = any(method.score for method in comparison.methods)
    head = ["policy", "success (95 %)", *(["score (95 %)"] if scored else []), "NFE", "mult-adds", "ms/chunk", "p95"]
    rows = [[*head, "steps/s", "s/episode", "sim", "net", "rest"]]
    for method in comparison.methods:
        seconds, latency = method.seconds, method.latency_ms
        whole = max(sum(seconds.values()), 1e-9)
        rows.append(
            [
                method.label,
                _figure(method.success),
                *([_figure(method.score)] if method.score else []),
                str(method.first.nfe or "-"),
                _count(method.first.multiply_adds),
                _number(latency["p50"], ".1f"),
                _number(latency["p95"], ".1f"),
                f"{method.steps_per_second['rollout']:.0f}",
                f"{whole:.2f}",
                *(f"{seconds[part] / whole:.0%}" for part in ("simulation", "inference", "rest")),
            ]
        )
    return rows


def _run_rows(comparison: Comparison) -> list[list[str]]:
    rows = [["training run", "seed", "successes", "rate", "mean highest reward"]]
    for method in comparison.methods:
        for run in method.runs:
            figures = run_figures(run)
            rate, score = f"{figures['success_rate']:.3f}", f"{figures['mean_max_reward']:.3f}"
            successes = f"{figures['n_success']} of {len(run.rows)}"
            rows.append([run.label, _number(run.training_seed, "d"), successes, rate, score])
    return rows


def run_figures(run: Evaluated) -> dict[str, Any]:
    """Successes and mean highest reward of one training run."""
    successes, n = sum(bool(row["success"]) for row in run.rows), len(run.rows)
    score = sum(row["max_reward"] for row in run.rows) / n
    return {"n_success": successes, "n_rollouts": n, "success_rate": successes / n, "mean_max_reward": score}


def _pair_rows(comparison: Comparison) -> list[list[str]]:
    head = ["success: first - second", "both/1st/2nd/none", "difference (95 %)", "p", "p Holm"]
    rows = [[*head, "first is", "more episodes"]]
    for pair in comparison.pairs:
        cells = [asdict(run.counts).values() for run in pair.runs]
        counts = "/".join(str(sum(cell)) for cell in zip(*cells, strict=True)) or "-"
        more = _more(pair, len(comparison.seeds))
        rows.append([" - ".join(pair.labels), counts, *_difference(pair.success), more])
    return rows


def _score_rows(comparison: Comparison) -> list[list[str]]:
    rows = [["score: first - second", "difference (95 %)", "p", "p Holm", "first is"]]
    return rows + [[" - ".join(pair.labels), *_difference(pair.score)] for pair in comparison.pairs if pair.score]


def _difference(difference: Difference) -> list[str]:
    low, high = difference.interval
    told = f"{difference.value:+.3f} ({low:+.3f} to {high:+.3f})"
    return [told, _p(difference.p), _p(difference.p_holm), difference.verdict]


def _more(pair: Pair, n: int) -> str:
    further = pair.further_episodes(n)
    return "not from these" if further is None else f"{further:,}" if further else "none"


def _notes(comparison: Comparison) -> list[str]:
    pairs, n = comparison.pairs, len(comparison.seeds)
    several = any(len(method.runs) > 1 for method in comparison.methods)
    exact, crossed = any(pair.is_exact for pair in pairs), any(not pair.is_exact for pair in pairs)
    met = f"{n} episodes" if n > 1 else "episode"
    told = [f"Simulator and policy noise are functions of the seed: every policy met the same {met}."]
    told += _temperatures(comparison)
    told += [f"Note: {note.removesuffix('.')}." for note in comparison.notes]
    told.append(
        "success: Wilson's interval" + ("; over several training runs, as wide as they vary." if several else ".")
    )
    told.append("sim, net, rest: where the seconds of an episode go: simulator, networks, all else.")
    if exact:
        told.append("One training run each: difference with Newcombe's paired interval, p of McNemar's exact test.")
    if crossed:
        told.append(
            "Several training runs: mean difference with Student's interval over training runs and episodes (two-way "
            "clusters), p of the same; counts are of training runs in their order, and summed, if both have as many. "
            "McNemar's test of each pair of runs stands in comparison.json."
        )
    if any(pair.score for pair in pairs):
        how = "; bootstrap interval, p by flipping signs of paired differences" * exact
        told.append(f"score: mean of each episode's highest reward{how}{', as success over several runs' * crossed}.")
    if pairs:
        told.append(
            f"p Holm: corrected for {len(pairs)} pair{'s' * (len(pairs) > 1)}; 'better' and 'worse' are said only "
            "where it is below 0.05. more episodes: beyond these, to tell the observed difference from none with 80 % "
            "power at 5 % over all pairs (Connor 1987); 'not from these' where there is none, or training varies too "
            "much for any number."
        )
    if not several:
        told.append("One training run each: this compares checkpoints; another training seed may come out otherwise.")
    elif any(len(method.runs) == 1 for method in comparison.methods):
        told.append("Where a policy has one training run, the interval knows nothing of how its training varies.")
    return told


def _temperatures(comparison: Comparison) -> list[str]:
    """What noise chunks began from, where that was not the same for all, or not that of training."""
    found: dict[float, list[str]] = {}
    for method in comparison.methods:
        if method.first.temperature is not None:
            found.setdefault(method.first.temperature, []).append(method.label)
    if set(found) <= {1.0}:
        return []
    named = "; ".join(f"{warmth:g}: {', '.join(labels)}" for warmth, labels in found.items())
    return [f"Temperature, the standard deviation of the noise that chunks begin from, 1 in training: {named}."]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the rows, which are named."""
    n = len(comparison.seeds)
    environment = comparison.methods[0].first.identity.get("environment", {})
    return {
        "environment": environment,
        "seeds": list(comparison.seeds),
        "notes": list(comparison.notes),
        "conclusions": conclusions(comparison),
        "methods": {method.label: _method_json(method) for method in comparison.methods},
        "pairs": [_pair_json(pair, n) for pair in comparison.pairs],
    }


def conclusions(comparison: Comparison) -> list[str]:
    """A sentence a pair, with n, training runs and interval; `better` only where the corrected test says so."""
    n, told = len(comparison.seeds), []
    for pair in comparison.pairs:
        runs = " and ".join(str(len(comparison.method(label).runs)) for label in pair.labels)
        for what, difference in (("success", pair.success), ("score", pair.score)):
            if difference is None:
                continue
            low, high = difference.interval
            told.append(
                f"{pair.labels[0]} and {pair.labels[1]}: {what} {difference.verdict}, {difference.value:+.3f} "
                f"(95 % {low:+.3f} to {high:+.3f}, p {_p(difference.p_holm)} after Holm), {n} episodes, "
                f"{runs} training runs"
            )
    return told


def _method_json(method: Method) -> dict[str, Any]:
    first = method.first
    return {
        "success_rate": method.success.value,
        "interval95": list(method.success.interval),
        "score": None if method.score is None else method.score.value,
        "score_interval95": None if method.score is None else list(method.score.interval),
        "nfe": first.nfe,
        "multiply_adds": first.multiply_adds,
        "temperature": first.temperature,
        "latency_ms": method.latency_ms,
        "env_steps_per_second": method.steps_per_second,
        "seconds_per_episode": {name: round(value, 6) for name, value in method.seconds.items()},
        "step": first.step,
        "epochs": first.epochs,
        "runs": [_run_json(run) for run in method.runs],
    }


def _run_json(run: Evaluated) -> dict[str, Any]:
    told = {"path": run.path, "training_seed": run.training_seed, "rows": run.rows_file, **run_figures(run)}
    return {
        **told,
        "identity": {name: run.identity[name] for name in ("checkpoint", "versions") if name in run.identity},
    }


def _pair_json(pair: Pair, n: int) -> dict[str, Any]:
    return {
        "first": pair.labels[0],
        "second": pair.labels[1],
        "success": _difference_json(pair.success),
        "score": None if pair.score is None else _difference_json(pair.score),
        "test": "exact McNemar" if pair.is_exact else "Student's t over training runs and episodes",
        "episodes_needed": pair.episodes,
        "further_episodes": pair.further_episodes(n),
        "training_runs": [
            {
                "training_seeds": list(run.training_seeds),
                **asdict(run.counts),
                "difference": run.counts.difference,
                "interval95": list(run.interval),
                "p_mcnemar": run.p,
            }
            for run in pair.runs
        ],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    told = {"difference": difference.value, "interval95": list(difference.interval)}
    return {**told, "p": difference.p, "p_holm": difference.p_holm, "verdict": difference.verdict}


def _figure(figure: Figure) -> str:
    return f"{figure.value:.3f} ({_span(figure.interval)})"


def _span(interval: Interval) -> str:
    return f"{interval[0]:.3f}-{interval[1]:.3f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _count(value: int | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
