"""A picture of a comparison: rates, paired differences, and success against what it costs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.comparison import Comparison, Method
from lfm_policy.evaluation.comparison_report import heading
from lfm_policy.evaluation.files import replacing
from lfm_policy.evaluation.paths import COLOURS, FAINT, INK

MARKERS, STYLES = "os^DvPX", ("-", "--", ":", "-.")
ABOUT = "95 % intervals"


@dataclass(frozen=True)
class Axis:
    """What success is drawn against; `of` gives None where a method does not tell it.

    other: what is the same along a curve, and `told` how a curve names it. logarithmic: of the axis.
    """

    label: str
    of: Callable[[Method], float | None]
    other: Callable[[Method], float | None]
    told: str
    logarithmic: bool


def _step(method: Method) -> float | None:
    return method.first.step


def _epochs(method: Method) -> float | None:
    return method.first.epochs


def _nfe(method: Method) -> float | None:
    return method.first.nfe


def _milliseconds(method: Method) -> float | None:
    return method.latency_ms["p50"]


NFE = Axis("network evaluations per chunk (NFE)", _nfe, _step, "{:g} steps", logarithmic=True)
MILLISECONDS = Axis("median milliseconds per chunk", _milliseconds, _step, "{:g} steps", logarithmic=True)
EPOCHS = Axis("epochs per sub-flow", _epochs, _nfe, "NFE {:g}", logarithmic=False)
STEPS = Axis("optimiser steps per sub-flow", _step, _nfe, "NFE {:g}", logarithmic=False)


def draw(comparison: Comparison, path: str | Path) -> None:
    """Write a PNG: rates and paired differences with intervals, and curves where a name has several points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = curve_axes(comparison)
    panels: list[Callable[[Any], None]] = [lambda axis: _draw_rates(axis, comparison)]
    if comparison.pairs:
        panels.append(lambda axis: _draw_differences(axis, comparison))
    panels += [lambda axis, what=what: _draw_curve(axis, comparison, what) for what in curves]  # type: ignore[misc]
    columns = min(len(panels), 3 if len(panels) == 3 else 2)
    rows = -(-len(panels) // columns)
    bars = max(len(comparison.methods), len(comparison.pairs))
    heights = [max(3.4, 1.2 + 0.28 * bars), *[3.4] * (rows - 1)]
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


def curve_axes(comparison: Comparison) -> list[Axis]:
    """What to draw success against: that in which several labels of one name differ."""
    epochs_known = all(method.first.epochs is not None for method in comparison.methods)
    candidates = [EPOCHS if epochs_known else STEPS, NFE, MILLISECONDS]
    varied = [axis for axis in candidates if axis is not MILLISECONDS and _varies(comparison, axis)]
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


def _draw_rates(axis: Any, comparison: Comparison) -> None:
    for place, method in enumerate(comparison.methods):
        colour = _colour(comparison, method.name)
        _bar(axis, place, method.success.value, method.success.interval, colour)
        if len(method.runs) > 1:
            rates = [sum(bool(row["success"]) for row in run.rows) / len(run.rows) for run in method.runs]
            style: dict[str, Any] = {"markersize": 4, "markerfacecolor": "white", "linestyle": ""}
            axis.plot(rates, [place + 0.24] * len(rates), "o", color=colour, **style)
    _name(axis, [method.label for method in comparison.methods])
    several = any(len(method.runs) > 1 for method in comparison.methods)
    axis.set_title(f"success, {ABOUT}" + ("; rings: training runs" if several else ""), fontsize=10, color=INK)
    axis.set_xlabel("success rate", color=INK)


def _draw_differences(axis: Any, comparison: Comparison) -> None:
    axis.axvline(0, color=INK, linewidth=0.8)
    for place, pair in enumerate(comparison.pairs):
        told_apart = pair.success.verdict != "not told apart"
        _bar(axis, place, pair.success.value, pair.success.interval, INK, filled=told_apart)
    _name(axis, [" − ".join(pair.labels) for pair in comparison.pairs])
    axis.set_title(f"paired difference, {ABOUT}; filled: told apart (Holm)", fontsize=10, color=INK)
    axis.set_xlabel("difference of success rates", color=INK)


def _bar(
    axis: Any, place: float, value: float, interval: tuple[float, float], colour: str, filled: bool = True
) -> None:
    axis.plot(interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axis.plot(value, place, "o", color=colour, markersize=6, markerfacecolor=colour if filled else "white")


def _name(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _draw_curve(axis: Any, comparison: Comparison, what: Axis) -> None:
    names, curves = list(_by_name(comparison)), curves_of(comparison, what)
    widest = max(what.of(method) or 0 for points in curves.values() for method in points)
    for place, (label, points) in enumerate(curves.items()):
        name = points[0].name
        # equal budgets would hide each other's intervals; milliseconds are never equal
        aside = 0 if what is MILLISECONDS else 0.012 * (place - (len(curves) - 1) / 2)
        xs = [float(what.of(method) or 0) for method in points]
        rates, spans = [m.success.value for m in points], [m.success.interval for m in points]
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
    axis.set_title(f"success, {ABOUT}", fontsize=10, color=INK)
    axis.set_xlabel(what.label, color=INK)
    axis.legend(frameon=False, fontsize=8)


def curves_of(comparison: Comparison, what: Axis) -> dict[str, list[Method]]:
    """Methods along each curve, by its name: those of one name that have in common what the axis does not show."""
    curves: dict[str, list[Method]] = {}
    for name, group in _by_name(comparison).items():
        drawn = [method for method in group if what.of(method) is not None]
        drawn.sort(key=lambda method: (what.other(method) or 0, what.of(method) or 0))
        others = {what.other(method) for method in drawn}
        for method in drawn:
            other = what.other(method)
            label = name if len(others) == 1 or other is None else f"{name}, {what.told.format(other)}"
            curves.setdefault(label, []).append(method)
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
