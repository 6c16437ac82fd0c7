"""Pictures of a fitted density: samples, the density itself, the way between data and noise, and the training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_policy.data.tables import Table
from lfm_policy.density.estimator import LocalFlowDensity
from lfm_policy.density.plot_parts import (
    Array,
    Limits,
    boundaries,
    chosen_rows,
    common_limits,
    density_grid,
    draw_contours,
    draw_dots,
    final_nlls,
    grid_size,
    on_grid,
    ordinary_maximum,
    picture,
    pulled_points,
    pushed_points,
    relative_height,
    robust_limits,
    samples,
    set_limits,
    spread_out,
)
from lfm_policy.evaluation.paths import COLOURS, FAINT, INK
from lfm_policy.flow import LFMError
from lfm_policy.flow.fit import WHOLE_CLOCK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA, MODEL = COLOURS[0], COLOURS[1]
COLOUR_MAP = "magma"
PLANE_POINTS, CORNER_POINTS, PANEL_POINTS = 40_000, 20_000, 8000
CORNER_COLUMNS = 6
ENOUGH_FOR_CONTOURS = 2000  # rows; fewer are shown one by one
ROW_PANELS, PANELS = 6, 12  # of the trajectory: boundaries in a row, and in all
FEWEST = 1000  # samples of a panel, where there are fewer rows
ALL_POINTS = 60_000  # of a row of panels together: a file of less than a megabyte
KINDS = {"loss": "loss", "valid_loss": "held-out loss", "valid_nll": "held-out NLL in nats"}


def draw_all(density: LocalFlowDensity, table: Table, folder: Path, seed: int) -> list[Path]:
    """Draw every picture that there is something to draw of into a folder; the files.

    `samples.png`, `density.png` (of two columns), `trajectory.png` and `training.png` (with a history). The same
    `seed` draws the same pictures. LFMError where the table has other columns than the density, or on a full disk.
    """
    if len(table.columns) != density.n_features_in_:
        raise LFMError(
            f"data: {table.name} has {len(table.columns)} columns and the density {density.n_features_in_}; "
            "give the table that it was trained on"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LFMError(f"{folder}: cannot be made ({error.strerror or error}); choose another place") from error
    drawn = [draw_samples(density, table, folder / "samples.png", seed)]
    if density.n_features_in_ == 2:
        drawn.append(draw_density(density, table, folder / "density.png"))
    drawn.append(draw_trajectory(density, table, folder / "trajectory.png", seed))
    if getattr(density, "history_", None):
        drawn.append(draw_training(density, folder / "training.png"))
    return drawn


def draw_samples(density: LocalFlowDensity, table: Table, path: Path, seed: int) -> Path:
    """Draw samples beside test rows: the plane of two columns, a corner plot of one or of more."""
    if density.n_features_in_ == 2:
        data = chosen_rows(table.test, PLANE_POINTS, seed)
        limits = [robust_limits(column) for column in data.T]
        with picture(path, 10.4, 0.9 + 4.7 * relative_height(*limits)) as figure:
            _draw_planes(figure, data, samples(density, len(data), seed), table, limits)
        return path
    shown = min(density.n_features_in_, CORNER_COLUMNS)
    data = chosen_rows(table.test, CORNER_POINTS, seed)[:, :shown]
    model = samples(density, CORNER_POINTS, seed)[:, :shown]
    side = max(5.5, 2.2 + 1.6 * shown)
    with picture(path, side, side + 0.5) as figure:
        _draw_corner(figure, data, model, table.columns[:shown])
        columns = f"columns 1 to {shown} of {len(table.columns)}" if shown < len(table.columns) else "all columns"
        figure.suptitle(f"{table.name}, {columns}: {len(data):,} test rows and {len(model):,} samples")
    return path


def _draw_planes(figure: Figure, data: Array, model: Array, table: Table, limits: Sequence[Limits]) -> None:
    panels = (
        (data, DATA, f"{table.name}: {len(data):,} test rows"),
        (model, MODEL, f"{len(model):,} samples of the model"),
    )
    for axis, (points, colour, title) in zip(figure.subplots(1, 2, sharex=True, sharey=True), panels, strict=True):
        draw_dots(axis, points, colour, inches=4.5)
        set_limits(axis, *limits)
        axis.set_title(title)
        _label(axis, table.columns)
        axis.label_outer()


def _draw_corner(figure: Figure, data: Array, model: Array, names: Sequence[str]) -> None:
    limits = [robust_limits(column) for column in data.T]
    axes = figure.subplots(len(names), len(names), squeeze=False)
    for row, column in np.ndindex(axes.shape):
        axis, pair = axes[row, column], (column, row)
        if column > row:
            axis.set_visible(False)
            continue
        if column == row:
            _draw_histograms(axis, data[:, row], model[:, row], limits[row])
        else:
            _draw_pair(axis, data[:, pair], model[:, pair], (limits[column], limits[row]))
        _label(axis, (names[column], names[row] if column < row else ""), length=18)
        axis.locator_params(nbins=3)
        axis.tick_params(labelsize=7, labelbottom=row == len(names) - 1, labelleft=column == 0 and row > 0)
        axis.xaxis.label.set_visible(row == len(names) - 1)
        axis.yaxis.label.set_visible(column == 0)
    figure.align_ylabels(axes[:, 0])
    figure.legend(handles=_corner_legend(len(data), len(names)), loc="outside lower center", ncols=2)


def _draw_histograms(axis: Axes, data: Array, model: Array, limits: Limits) -> None:
    bins = int(np.clip(math.sqrt(len(data)), 12, 60))
    for values, style in ((data, {"color": DATA, "alpha": 0.45}), (model, {"color": MODEL, "histtype": "step"})):
        with np.errstate(invalid="ignore"):  # none within the limits
            axis.hist(values, bins=bins, range=limits, density=True, linewidth=1.2, **style)
    axis.set_xlim(*limits)
    axis.set_yticks([])


def _draw_pair(axis: Axes, data: Array, model: Array, limits: tuple[Limits, Limits]) -> None:
    if len(data) < ENOUGH_FOR_CONTOURS:
        draw_dots(axis, data, DATA, inches=1.5)
    else:
        draw_contours(axis, data, limits, DATA, filled=True)
    draw_contours(axis, model, limits, MODEL, filled=False)
    axis.set_xlim(*limits[0])
    axis.set_ylim(*limits[1])


def _corner_legend(rows: int, columns: int) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    around = "" if columns == 1 else ": around 50 % and 90 % of them"
    model = Line2D([], [], color=MODEL, label=f"samples of the model{around}")
    if columns > 1 and rows < ENOUGH_FOR_CONTOURS:
        return [Line2D([], [], color=DATA, marker="o", markersize=4, linestyle="", label="test rows"), model]
    return [Patch(color=DATA, alpha=0.45, label=f"test rows{around}"), model]


def draw_density(density: LocalFlowDensity, table: Table, path: Path) -> Path:
    """Draw exp(log p) of a density of two columns, beside the true one where the table knows it, on one scale."""
    from matplotlib.colors import PowerNorm

    limits = [robust_limits(column) for column in table.test.T]
    x, y, values = density_grid(density, limits[0], limits[1], grid_size(density.flow_))
    panels = [("density of the model", values)]
    truth = table.log_prob
    if truth is not None:
        panels.insert(0, ("true density", on_grid(lambda rows: np.exp(truth(rows)), x, y)))
    norm = PowerNorm(0.5, 0, ordinary_maximum(panels[0][1]))  # where the truth is known it sets the scale
    with picture(path, 1.2 + 4.6 * len(panels), 0.8 + 4.2 * relative_height(*limits)) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, shown) in zip(axes, panels, strict=True):
            image = axis.imshow(shown, COLOUR_MAP, norm, origin="lower", extent=(*limits[0], *limits[1]), aspect="auto")
            set_limits(axis, *limits)
            axis.set_title(title)
            _label(axis, table.columns)
            axis.label_outer()
        unit = textwrap.fill(" and of ".join(table.columns), 40)
        bar = figure.colorbar(image, ax=axes, extend="max", pad=0.015, fraction=0.05)
        bar.set_label(f"probability per unit of {unit}", parse_math=False)
    return path


def draw_trajectory(density: LocalFlowDensity, table: Table, path: Path, seed: int) -> Path:
    """Draw p_0 … p_N: above, test rows pushed through sub-flows 1 … n; below, noise pulled back to boundary n.

    Of more than two columns the first two whitened coordinates.
    """
    chosen, times = boundaries(density.flow_.n_subflows, PANELS), density.flow_.schedule.times
    rows = chosen_rows(table.test, min(PANEL_POINTS, ALL_POINTS // len(chosen)), seed)
    pushed, pulled = pushed_points(density, rows, seed), pulled_points(density, max(len(rows), FEWEST), seed)
    limits = common_limits(pushed[0], pulled[-1])
    blocks = math.ceil(len(chosen) / ROW_PANELS)
    columns = math.ceil(len(chosen) / blocks)
    inches = 2.0 if columns > 3 else 2.6
    with picture(path, 0.7 + inches * columns, 0.6 + blocks * (0.5 + 1.88 * inches)) as figure:
        for i, part in enumerate(figure.subfigures(blocks, 1, squeeze=False)[:, 0]):
            shown = chosen[i * columns : (i + 1) * columns]
            axes = part.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
            _draw_way(axes[0], [pushed[n] for n in shown], limits, DATA, inches)
            _draw_way(axes[1], [pulled[n] for n in shown], limits, MODEL, inches)
            for axis, n in zip(axes[0], shown, strict=False):
                axis.set_title(f"n = {n}, t = " + (f"{times[n]:.2g}" if math.isfinite(times[n]) else "∞"))
            axes[0, 0].set_ylabel("data, pushed on →", color=DATA)
            axes[1, 0].set_ylabel("← noise, pulled back", color=MODEL)
        figure.suptitle(_trajectory_title(table, density.flow_.n_subflows))
    return path


def _trajectory_title(table: Table, n_subflows: int) -> str:
    shown = "whitened" if len(table.columns) <= 2 else f"whitened columns 1 and 2 of {len(table.columns)}"
    return f"{table.name}: from data (n = 0) to noise (n = {n_subflows}) and back\n{shown}, t is OU time"


def _draw_way(
    axes: Sequence[Axes], clouds: Sequence[Array], limits: Sequence[Limits], colour: str, inches: float
) -> None:
    for axis, points in zip(axes, clouds, strict=False):
        if len(limits) == 1:
            axis.hist(points[:, 0], bins=40, range=limits[0], density=True, color=colour, alpha=0.6)
            axis.set_xlim(*limits[0])
        else:
            draw_dots(axis, points, colour, inches)
            set_limits(axis, *limits)
        axis.locator_params(nbins=4)
        axis.tick_params(labelsize=7)
    for axis in axes[len(clouds) :]:
        axis.set_visible(False)


def draw_training(density: LocalFlowDensity, path: Path) -> Path:
    """Draw loss, held-out loss and held-out NLL of each sub-flow along its steps, and the NLL that each ended with."""
    history = density.history_
    kinds = [kind for kind in KINDS if any(entry[kind] is not None for entry in history)]
    ends = final_nlls(density)
    numbers = list(dict.fromkeys(entry["n"] for entry in history))
    panels = len(kinds) + (len(ends) > 1)
    rows = 2 if panels == 4 else 1
    with picture(path, 0.4 + 4.2 * max(panels / rows, 1.4), 0.7 + 3.1 * rows) as figure:
        axes = figure.subplots(rows, panels // rows, squeeze=False).ravel()
        for axis, kind in zip(axes, kinds, strict=False):
            for n in numbers:
                seen = [(entry["step"], entry[kind]) for entry in history if entry["n"] == n]
                axis.plot(*np.array(seen, dtype=float).T, ".-", color=_colour(n, max(numbers)), label=_called(n))
            _dress(axis, KINDS[kind], "step of the sub-flow")
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.locator_params(axis="x", nbins=5, integer=True)
            if kind != "valid_nll":
                spread_out(axis)
        if len(ends) > 1:
            _draw_ends(axes[-1], ends)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(numbers), 6))
    return path


def _draw_ends(axis: Axes, ends: Mapping[int, float]) -> None:
    shared = ends.get(WHOLE_CLOCK)
    own = {n: nll for n, nll in ends.items() if n != WHOLE_CLOCK}
    axis.plot(list(own), list(own.values()), color=FAINT, zorder=1)
    for n, nll in own.items():
        axis.plot(n, nll, "o", color=_colour(n, max(own)))
    if shared is not None:
        axis.axhline(shared, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axis.locator_params(axis="x", integer=True)
    _dress(axis, "held-out NLL at the end of each, in nats", "sub-flow n")


def _dress(axis: Axes, title: str, below: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(below)
    axis.grid(True)


def _colour(n: int, largest: int) -> Any:
    """Black for all stretches together, else a shade that says how near to the noise sub-flow n is."""
    import matplotlib

    return INK if n == WHOLE_CLOCK else matplotlib.colormaps["viridis"](0.9 * (n - 1) / max(1, largest - 1))


def _called(n: int) -> str:
    return "all stretches together" if n == WHOLE_CLOCK else f"n = {n}"


def _label(axis: Axes, names: Sequence[str], length: int = 40) -> None:
    """Names below and beside an axis, long ones broken; a dollar in a name is a dollar."""
    below, beside = ("\n".join(textwrap.wrap(name, length, max_lines=2, placeholder=" …")) for name in names)
    axis.set_xlabel(below, parse_math=False)
    axis.set_ylabel(beside, parse_math=False)
