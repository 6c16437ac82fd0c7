"""What pictures of densities are made of: the numbers shown, a figure without global state, limits, dots, contours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lfm_policy.density.estimator import LocalFlowDensity
from lfm_policy.density.fitting import deciding
from lfm_policy.evaluation.files import replacing
from lfm_policy.evaluation.paths import FAINT, INK
from lfm_policy.flow import LocalFlow, Solver, named_generator
from lfm_policy.flow.random import named_seed, normal
from lfm_policy.flow.schedule import ou_moments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Limits = tuple[float, float]

STEPS = 12  # of RK4 over the whole clock, at least: no eye sees the difference that more make
GRID, COARSE_GRID = 256, 128  # points a side of the density's picture
GRID_WORK = 3e11  # multiply-adds of the picture beyond which its grid becomes coarser
DPI = 150
STYLE: dict[str, Any] = {
    "font.size": 9,
    "figure.titlesize": 11,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
}
MASSES = (0.9, 0.5)  # of the samples within a contour
CONTOUR_BINS, CONTOUR_BLUR = 48, 1.5


def picture_solver(flow: LocalFlow) -> Solver:
    """RK4 with as many steps per sub-flow as an eye needs."""
    return Solver("rk4", math.ceil(STEPS / flow.n_subflows))


def chosen_rows(rows: Array, count: int, seed: int) -> Array:
    """At most `count` rows (M, d) of a table's part, by chance and in float64."""
    order = torch.randperm(len(rows), generator=named_generator(seed, "plot_rows"))[:count]
    return rows[order.numpy()].astype(np.float64)


def whitened(density: LocalFlowDensity, rows: Array) -> Tensor:
    """Rows (M, d) as the networks see them, in float32."""
    return density.whitener_.normalize(torch.from_numpy(rows).double()).to(density.device, torch.float32)


def samples(density: LocalFlowDensity, count: int, seed: int) -> Array:
    """Samples (M, d) of the model in the table's units; those that are not finite are left out."""
    drawn = density.sample(count, named_seed(seed, "plot_samples") % 2**31, picture_solver(density.flow_))
    return drawn[np.isfinite(drawn).all(1)]


def density_grid(
    density: LocalFlowDensity, horizontal: Limits, vertical: Limits, size: int, solver: Solver | None = None
) -> tuple[Array, Array, Array]:
    """Density of two columns on a grid: its x (size,) and y (size,), and values [y, x] in 1 / (unit of x · of y).

    For the eye and not for figures: float32 and a fixed number of RK4 steps, where `score_samples` solves in float64
    until more steps change nothing. The whitener's Jacobian is counted. Points are the centres of equal cells.
    """
    x, y = (low + (high - low) * (np.arange(size) + 0.5) / size for low, high in (horizontal, vertical))
    solver = solver or picture_solver(density.flow_)

    def values(rows: Array) -> Array:
        with torch.no_grad():
            log_prob = density.flow_.log_prob(whitened(density, rows), None, solver)
        return (log_prob.double().cpu() + density.whitener_.log_abs_det()).exp().numpy()

    return x, y, on_grid(values, x, y)


def on_grid(function: Callable[[Array], Array], x: Array, y: Array) -> Array:
    """A function of rows (B, 2) as an image [y, x]."""
    rows = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return function(rows).reshape(len(y), len(x))


def ordinary_maximum(values: Array) -> float:
    """The greatest of the values of a density's picture, but for spikes, which would darken the rest."""
    finite = values[np.isfinite(values)]
    return (float(np.percentile(finite, 99.8)) or float(finite.max()) or 1.0) if len(finite) else 1.0


def grid_size(flow: LocalFlow) -> int:
    """Points a side of the density's grid: 256, fewer for large networks, so that it is drawn in half a minute."""
    weights = sum(weight.numel() for weight in flow.field(1).parameters())
    each = weights * (picture_solver(flow).evaluations or 1) * flow.n_subflows
    return int(np.clip(math.sqrt(GRID_WORK / max(1, 3 * each)), COARSE_GRID, GRID))


@torch.no_grad()
def pushed_points(density: LocalFlowDensity, rows: Array, seed: int) -> list[Array]:
    """Rows (M, d) pushed to boundaries n = 0 … N: the first two whitened coordinates (M, 2) at each, or all (M, 1)."""
    flow, x = density.flow_, whitened(density, rows)
    mean, std = ou_moments(density.initial_diffusion)
    x = mean * x + std * normal(x.shape, x, named_generator(seed, "plot_diffusion"))
    path = [x]
    for n in range(1, flow.n_subflows + 1):
        path.append(flow.push(path[-1], None, picture_solver(flow), [n]))
    return [_seen(x) for x in path]


@torch.no_grad()
def pulled_points(density: LocalFlowDensity, count: int, seed: int) -> list[Array]:
    """Noise pulled to boundaries n = 0 … N: as `pushed_points`, with (count, ·) samples."""
    flow = density.flow_
    shape = (count, density.n_features_in_)
    path = [normal(shape, whitened(density, np.empty((0, shape[1]))), named_generator(seed, "plot_noise"))]
    for n in range(flow.n_subflows, 0, -1):
        path.append(flow.pull(path[-1], None, picture_solver(flow), [n]))
    return [_seen(x) for x in reversed(path)]


def _seen(x: Tensor) -> Array:
    return x[:, :2].double().cpu().numpy()


def boundaries(n_subflows: int, count: int) -> list[int]:
    """Boundaries 0 … N, or `count` of them at even distances."""
    return [round(n) for n in np.linspace(0, n_subflows, min(n_subflows + 1, count))]


def final_nlls(density: LocalFlowDensity) -> dict[int, float]:
    """n -> held-out NLL in nats that sub-flow n ended with: its last, or its best where early stopping brings it back.

    Empty without held-out rows; n = 0 is the network that all stretches began with.
    """
    ends: dict[int, float] = {}
    best: dict[int, float] = {}
    for entry in density.history_:
        n, loss, nll = entry["n"], entry["valid_loss"], entry["valid_nll"]
        if nll is None:
            continue
        figure = deciding(n, density.n_subflows, loss, nll)
        if density.patience is None or figure < best.get(n, math.inf):
            ends[n], best[n] = nll, figure
    return ends


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches to draw into, written as a PNG when all is drawn, and not at all if that fails.

    It belongs to no pyplot and takes nothing from the user's matplotlibrc: neither is changed, and the picture is the
    same everywhere.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]), replacing(path) as temporary:
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(temporary, dpi=DPI)


def robust_limits(values: Array, margin: float = 0.12) -> Limits:
    """Ends of an axis for values (M,), which an outlier does not squash: percentiles 0.5 to 99.5, and a margin.

    Of few rows, where those are the least and the greatest, no further from the middle nine tenths than these are wide.
    """
    ordered, tail = np.sort(values), int(0.005 * len(values))
    lowest, highest = float(ordered[tail]), float(ordered[-1 - tail])
    low, high = np.percentile(values, (5, 95)).tolist()
    if high > low:
        lowest, highest = max(lowest, 2 * low - high), min(highest, 2 * high - low)
    span = (highest - lowest) or max(1.0, abs(highest))
    return lowest - margin * span, highest + margin * span


def common_limits(*clouds: Array) -> list[Limits]:
    """Limits of each coordinate that suit every one of several clouds (M, k), the same for all k if they are alike."""
    each = [[robust_limits(column) for column in cloud.T] for cloud in clouds]
    limits = [_around(*found) for found in zip(*each, strict=True)]
    return [_around(*limits)] * len(limits) if alike(*limits) else limits


def _around(*limits: Limits) -> Limits:
    return min(low for low, _ in limits), max(high for _, high in limits)


def alike(*limits: Limits) -> bool:
    """Whether ranges are so near to each other that one scale can serve them: a plane, and not a table."""
    spans = [high - low for low, high in limits]
    return max(spans) < 2 * min(spans)


def relative_height(horizontal: Limits, vertical: Limits) -> float:
    """Height of a panel by its width, so that one scale for both axes fills it."""
    if not alike(horizontal, vertical):
        return 1.0
    return (vertical[1] - vertical[0]) / (horizontal[1] - horizontal[0])


def set_limits(axis: Axes, horizontal: Limits, vertical: Limits) -> None:
    """Fix both axes, to one scale where their ranges are alike, each to its own where not."""
    axis.set_xlim(*horizontal)
    axis.set_ylim(*vertical)
    if alike(horizontal, vertical):
        axis.set_aspect("equal")


def spread_out(axis: Axes) -> None:
    """A logarithmic vertical axis with plain numbers, where the lines on it differ twentyfold."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()])
    if values.min() > 0 and values.max() > 20 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 1000 * values.min() else (1,)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def draw_dots(axis: Axes, points: Array, colour: str, inches: float) -> None:
    """Points (M, 2) as translucent dots, the fainter and smaller the more there are on a panel of so many inches."""
    distance = inches / math.sqrt(max(1, len(points)))
    size, opacity = np.clip(60 * distance, 0.5, 14), np.clip(10 * distance, 0.25, 0.7)
    axis.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=opacity, linewidths=0, rasterized=True)


def draw_contours(axis: Axes, points: Array, limits: tuple[Limits, Limits], colour: str, filled: bool) -> None:
    """Contours around the densest half and nine tenths of points (M, 2), as lines or as translucent areas."""
    counts, *edges = np.histogram2d(points[:, 0], points[:, 1], bins=CONTOUR_BINS, range=np.array(limits))
    smooth = gaussian_filter(counts, CONTOUR_BLUR)
    levels = np.unique(mass_levels(smooth, MASSES))
    if not counts.any():  # all of it lies outside the limits
        return
    centres = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    if filled:
        for level in levels:
            axis.contourf(*centres, smooth.T, levels=(level, np.inf), colors=colour, alpha=0.25)
    else:
        axis.contour(*centres, smooth.T, levels=levels, colors=colour, linewidths=1.1)


def mass_levels(values: Array, masses: tuple[float, ...]) -> Array:
    """Heights (K,) above which so large a share of the sum of `values` lies."""
    ordered = np.sort(values, axis=None)[::-1]
    shares = ordered.cumsum() / max(ordered.sum(), np.finfo(float).tiny)
    return ordered[np.searchsorted(shares, masses).clip(max=len(ordered) - 1)]
