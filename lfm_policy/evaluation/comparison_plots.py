"""A picture of a comparison: rates, paired differences, and success against what it costs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.comparison import Comparison, Difference, Figure, Method, Pair
from lfm_policy.evaluation.comparison_report import heading
from lfm_policy.evaluation.files import replacing
from lfm_policy.evaluation.paths import COLOURS, FAINT, INK

MARKERS, STYLES = "os^DvPX", ("-", "--", ":", "-.")
ABOUT = "95 % intervals"


@dataclass(frozen=True)
class Fact:
    """A number that methods of one name may differ in, and how a curve on which it is the same names it."""

    of: Callable[[Method], float | None]
    told: str


@dataclass(frozen=True)
class Axis:
    """What success is drawn against; `of` gives None where a method does not tell it.

    others: what is the same along a curve. logarithmic: of the axis.
    """

    label: str
    of: Callable[[Method], float | None]
    others: tuple[Fact, ...]
    logarithmic: bool = False


@dataclass(frozen=True)
class Measure:
    """What is drawn: its name, the rows' key, a method's figure and a pair's difference of it."""

    name: str
    key: str
    figure: Callable[[Method], Figure | None]
    difference: Callable[[Pair], Difference | None]


SUCCESS = Measure("success rate", "success", lambda method: method.success, lambda pair: pair.success)
SCORE = Measure("score", "max_reward", lambda method: method.score, lambda pair: pair.score)


def _step(method: Method) -> float | None:
    return method.first.step


def _epochs(method: Method) -> float | None:
    return method.first.epochs


def _nfe(method: Method) -> float | None:
    return method.first.nfe


def _milliseconds(method: Method) -> float | None:
    return method.latency_ms["p50"]


def _temperature(method: Method) -> float | None:
    return method.first.temperature


TRAINED, EVALUATED, WARM = Fact(_step, "{:g} steps"), Fact(_nfe, "NFE {:g}"), Fact(_temperature, "temperature {:g}")
NFE = Axis("network evaluations per chunk (NFE)", _nfe, (TRAINED, WARM), logarithmic=True)
MILLISECONDS = Axis("median milliseconds per chunk", _milliseconds, (TRAINED, WARM), logarithmic=True)
EPOCHS = Axis("epochs per sub-flow", _epochs, (EVALUATED, WARM))
STEPS = Axis("optimiser steps per sub-flow", _step, (EVALUATED, WARM))
TEMPERATURE = Axis("temperature", _temperature, (TRAINED, EVALUATED))


def draw(comparison: Comparison, path: str | Path) -> None:
    """Write a PNG: rates and paired differences with intervals, and curves where a name has several points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = _panels(comparison)
    columns = min(len(panels), 3 if len(panels) == 3 else 2)
    rows = -(-len(panels) // columns)
    bars = max(len(comparison.methods), len(comparison.pairs))
    listed = min(len(measures(comparison)), rows)
    heights = [max(3.4, 1.2 + 0.28 * bars)] * listed + [3.4] * (rows - listed)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(5.4 * columns, sum(heights) + 0.5),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    try:
        for axis, panel in zip(axes.flat, panels, strict=False):
            panel(axis)
            _tidy(axis)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        title = "\n".join(textwrap.wrap(heading(comparison).replace("\n", ": "), 62 * columns))
        figure.suptitle(title, fontsize=10, color=INK)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    finally:
        pyplot.close(figure)


def measures(comparison: Comparison) -> list[Measure]:
    """Success, and the score where there is one."""
    return [SUCCESS, SCORE] if comparison.methods[0].score is not None else [SUCCESS]


def _panels(comparison: Comparison) -> list[Callable[[Any], None]]:
    """What draws each panel: rates and differences of every measure, curves of the last."""
    panels: list[Callable[[Any], None]] = []
    for measure in measures(comparison):
        panels.append(partial(_draw_rates, comparison=comparison, measure=measure))
        if comparison.pairs:
            panels.append(partial(_draw_differences, comparison=comparison, measure=measure))
    last = measures(comparison)[-1]
    return panels + [partial(_draw_curve, comparison=comparison, what=axis, of=last) for axis in curve_axes(comparison)]


def curve_axes(comparison: Comparison) -> list[Axis]:
    """What to draw success against: that in which several labels of one name differ."""
    epochs_known = all(method.first.epochs is not None for method in comparison.methods)
    varied = [axis for axis in (EPOCHS if epochs_known else STEPS, TEMPERATURE, NFE) if _varies(comparison, axis)]
    return [*varied, MILLISECONDS] if NFE in varied else varied


def _varies(comparison: Comparison, axis: Axis) -> bool:
    return any(len({axis.of(method) for method in group} - {None}) > 1 for group in _by_name(comparison).values())


def _by_name(comparison: Comparison) -> dict[str, list[Method]]:
    groups: dict[str, list[Method]] = {}
    for method in comparison.methods:
        groups.setdefault(method.name, []).append(method)
    return groups


def _colour(comparison: Comparison, name: str) -> str:
    return COLOURS[list(_by_name(comparison)).index(name) % len(COLOURS)]


def _draw_rates(axis: Any, comparison: Comparison, measure: Measure) -> None:
    for place, method in enumerate(comparison.methods):
        colour, figure = _colour(comparison, method.name), measure.figure(method)
        assert figure is not None
        _bar(axis, place, figure, colour)
        if len(method.runs) > 1:
            means = [sum(float(row[measure.key]) for row in run.rows) / len(run.rows) for run in method.runs]
            style: dict[str, Any] = {"markersize": 4, "markerfacecolor": "white", "linestyle": ""}
            axis.plot(means, [place + 0.24] * len(means), "o", color=colour, **style)
    _name(axis, [method.label for method in comparison.methods])
    several = any(len(method.runs) > 1 for method in comparison.methods)
    axis.set_title(f"{measure.name}, {ABOUT}{'; rings: training runs' * several}", fontsize=10, color=INK)
    axis.set_xlabel(measure.name, color=INK)


def _draw_differences(axis: Any, comparison: Comparison, measure: Measure) -> None:
    axis.axvline(0, color=INK, linewidth=0.8)
    for place, pair in enumerate(comparison.pairs):
        difference = measure.difference(pair)
        assert difference is not None
        _bar(axis, place, difference, INK, filled=difference.verdict != "not told apart")
    _name(axis, [" − ".join(pair.labels) for pair in comparison.pairs])
    axis.set_title(f"paired difference, {ABOUT}; filled: told apart (Holm)", fontsize=10, color=INK, loc="right")
    axis.set_xlabel(f"difference of {measure.name}s", color=INK)


def _bar(axis: Any, place: float, figure: Figure | Difference, colour: str, filled: bool = True) -> None:
    axis.plot(figure.interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axis.plot(figure.value, place, "o", color=colour, markersize=6, markerfacecolor=colour if filled else "white")


def _name(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _draw_curve(axis: Any, comparison: Comparison, what: Axis, of: Measure) -> None:
    names, curves = list(_by_name(comparison)), curves_of(comparison, what)
    widest = max(what.of(method) or 0 for points in curves.values() for method in points)
    for place, (label, points) in enumerate(curves.items()):
        name = points[0].name
        # equal budgets would hide each other's intervals; milliseconds are never equal
        aside = 0 if what is MILLISECONDS else 0.012 * (place - (len(curves) - 1) / 2)
        xs = [float(what.of(method) or 0) for method in points]
        figures = [figure for method in points if (figure := of.figure(method)) is not None]
        rates, spans = [figure.value for figure in figures], [figure.interval for figure in figures]
        axis.errorbar(
            [x * 6**aside if what.logarithmic else x + widest * aside for x in xs],
            rates,
            # a rate of 1 lies on the end of its interval, but for rounding
            [[max(abs(r - end[side]), 0) for r, end in zip(rates, spans, strict=True)] for side in (0, 1)],
            color=_colour(comparison, name),
            marker=MARKERS[names.index(name) % len(MARKERS)],
            linestyle=STYLES[[k for k, v in curves.items() if v[0].name == name].index(label) % len(STYLES)],
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2,
            label=label,
        )
    if what.logarithmic:
        _name_logarithms(axis, sorted({what.of(method) or 0 for method in comparison.methods}) if what is NFE else [])
    axis.set_title(f"{of.name}, {ABOUT}", fontsize=10, color=INK)
    axis.set_xlabel(what.label, color=INK)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside what it would hide


def curves_of(comparison: Comparison, what: Axis) -> dict[str, list[Method]]:
    """Methods along each curve, by its name: those of one name that have in common what the axis does not show."""
    curves: dict[str, list[Method]] = {}
    for name, group in _by_name(comparison).items():
        drawn = [method for method in group if what.of(method) is not None]
        drawn.sort(key=lambda method: (*(fact.of(method) or 0 for fact in what.others), what.of(method) or 0))
        varied = [fact for fact in what.others if len({fact.of(method) for method in drawn}) > 1]
        for method in drawn:
            values = [(fact, fact.of(method)) for fact in varied]
            told = [fact.told.format(value) for fact, value in values if value is not None]
            curves.setdefault(", ".join([name, *told]), []).append(method)
    return curves


def _name_logarithms(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers: `values`, or round ones."""
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(values) if values else LogLocator(10, subs=(1, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(NullLocator())


def _tidy(axis: Any) -> None:
    axis.grid(color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)
