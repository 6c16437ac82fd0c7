"""Points that a hand goes around by: beside the straight way to where it goes, and beyond where it stops."""

from __future__ import annotations

import numpy as np

from envs.experts.poses import UP, Array


def beside(start: Array, end: Array, metres: float) -> Array:
    """The point (3,) that lies halfway and `metres` to the left of the way, seen from above; negative is right."""
    return (start + end) / 2 + metres * np.cross(UP, heading(start, end))


def beyond(start: Array, end: Array, metres: float) -> Array:
    """The point (3,) at which one who does not stop at the end has gone too far by `metres`, at its height."""
    return end + metres * heading(start, end)


def pulled_in(point: Array, base: Array, metres: float) -> Array:
    """The point (3,), moved towards a robot's base at its height if it is farther from it than `metres`."""
    way = (point - base) * (1 - UP)
    return point - way * max(0.0, 1 - metres / np.linalg.norm(way))


def heading(start: Array, end: Array) -> Array:
    """Horizontal unit vector (3,) from one point to another, which is not straight above it."""
    way = (end - start) * (1 - UP)
    return way / np.linalg.norm(way)
