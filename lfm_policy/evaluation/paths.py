"""A picture of where things went in rollouts: from above and from the side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.episode import Row, Trajectory
from lfm_policy.evaluation.files import replacing

# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#dddddd"


@dataclass(frozen=True)
class View:
    """Two axes of space to look at: title, and the index of the horizontal and the vertical one."""

    title: str
    horizontal: int
    vertical: int


FROM_ABOVE, FROM_THE_SIDE = View("from above", 0, 1), View("from the side", 0, 2)


def draw_paths(path: str | Path, rows: Sequence[Row], trajectories: Mapping[int, Trajectory], title: str) -> bool:
    """Write a PNG of recorded paths, one colour a named position; False if no positions were recorded.

    Successes are solid and failures dashed; a ring marks the start and a dot the end.
    """
    drawn = [(trajectories[row["seed"]], row["success"]) for row in rows if row["seed"] in trajectories]
    drawn = [(trajectory, success) for trajectory, success in drawn if trajectory.positions]
    if not drawn:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for trajectory, _ in drawn for name in trajectory.positions))
    dimension = max(points.shape[1] for trajectory, _ in drawn for points in trajectory.positions.values())
    views = [FROM_ABOVE, FROM_THE_SIDE] if dimension == 3 else [FROM_ABOVE]
    figure, axes = pyplot.subplots(1, len(views), figsize=(5.2 * len(views), 5.4), layout="constrained", squeeze=False)
    try:
        for axis, view in zip(axes[0], views, strict=True):
            _draw_view(axis, view if dimension == 3 else View("", 0, 1), drawn, names)
        figure.suptitle(title, fontsize=9 + len(views), color=INK)
        figure.legend(
            handles=_legend(names, {success for _, success in drawn}),
            loc="outside lower center",
            ncols=3 * len(views),
            frameon=False,
            fontsize=9,
        )
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    finally:
        pyplot.close(figure)
    return True


def _draw_view(axis: Any, view: View, drawn: Sequence[tuple[Trajectory, bool]], names: Sequence[str]) -> None:
    for trajectory, success in drawn:
        for name, points in trajectory.positions.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            across, up = points[:, view.horizontal], points[:, view.vertical]
            style = {"linestyle": "-", "alpha": 0.75} if success else {"linestyle": (0, (3, 2)), "alpha": 0.9}
            axis.plot(across, up, color=colour, linewidth=1.1, **style)
            axis.plot(across[0], up[0], "o", color=colour, markersize=5, markerfacecolor="white", zorder=3)
            axis.plot(across[-1], up[-1], "o", color=colour, markersize=4, zorder=4)
    unit = drawn[0][0].unit
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_title(view.title, fontsize=10, color=INK)
    axis.set_xlabel("xyz"[view.horizontal] + f" in {unit}", color=INK)
    axis.set_ylabel("xyz"[view.vertical] + f" in {unit}", color=INK)
    axis.grid(color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.locator_params(nbins=6)
    axis.tick_params(colors=INK, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)


def _legend(names: Sequence[str], outcomes: set[bool]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[index % len(COLOURS)], linewidth=2, label=name.replace("_", " "))
        for index, name in enumerate(names)
    ]
    if True in outcomes:
        handles.append(Line2D([], [], color=INK, label="success"))
    if False in outcomes:
        handles.append(Line2D([], [], color=INK, linestyle=(0, (3, 2)), label="failure"))
    ring = Line2D([], [], color=INK, marker="o", linestyle="", markerfacecolor="white", label="start")
    dot = Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="end")
    return [*handles, ring, dot]
