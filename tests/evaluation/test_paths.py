"""The picture of paths shows what was recorded, in one view or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.evaluation.episode import Trajectory
from lfm_policy.evaluation.paths import draw_paths

ROWS = [{"seed": 1, "success": True}, {"seed": 2, "success": False}, {"seed": 3, "success": True}]


def trajectories(dimension: int) -> dict[int, Trajectory]:
    rng = np.random.default_rng(0)
    names = ("gripper", "cube")
    return {
        seed: Trajectory(np.zeros((9, 7)), {name: rng.normal(size=(10, dimension)).cumsum(0) for name in names})
        for seed in (1, 2)
    }


@pytest.mark.parametrize(("dimension", "views"), [(2, [(0, 1)]), (3, [(0, 1), (0, 2)])])
def test_each_view_shows_every_path_in_its_axes(
    tmp_path: Path, figures: list[Any], dimension: int, views: list[tuple[int, int]]
) -> None:
    recorded = trajectories(dimension)
    assert draw_paths(tmp_path / "paths.png", ROWS, recorded, "title")
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert len(figure.axes) == len(views)
    for axis, (across, up) in zip(figure.axes, views, strict=True):
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("xyz"[across] + " in m", "xyz"[up] + " in m")
        assert axis.get_aspect() == 1
        lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 10]
        expected = [(seed, name) for seed in (1, 2) for name in ("gripper", "cube")]
        assert len(lines) == len(expected)
        for line, (seed, name) in zip(lines, expected, strict=True):
            points = recorded[seed].positions[name]
            np.testing.assert_array_equal(line.get_xdata(), points[:, across])
            np.testing.assert_array_equal(line.get_ydata(), points[:, up])
            assert (line.get_linestyle() == "-") == (seed == 1), "failures are dashed"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["gripper", "cube", "success", "failure", "start", "end"]


def test_nothing_recorded_draws_nothing(tmp_path: Path) -> None:
    bare = {1: Trajectory(np.zeros((3, 2)), {})}
    assert not draw_paths(tmp_path / "paths.png", ROWS, bare, "title")
    assert not draw_paths(tmp_path / "paths.png", ROWS, {}, "title")
    assert not list(tmp_path.iterdir())
