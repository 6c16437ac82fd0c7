"""Lift: go above the cube, down, close, up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.experts.common import PhasedExpert
from envs.experts.phases import CLOSE, OPEN, Phase
from envs.experts.poses import Array, Pose, face_yaws, pointing_down, yaw_of

CUBE = "cube_main"
SECOND_GRASP_PROBABILITY = 0.1


class LiftExpert(PhasedExpert):
    """Grasps the cube across two faces from above; hover height and offset, tilt, pause and depth vary."""

    def plan(self) -> Sequence[Sequence[Phase]]:
        """Hover, down, wait, close, lift."""
        rng = self.rng
        rotation = self.tilt(2.3) @ pointing_down(self._grasp_yaw())
        hover = self.hover(0.05, 0.11)
        grasp = np.array([0.0, 0.0, rng.uniform(-0.005, 0.008)])
        raised = np.array([0.0, 0.0, rng.uniform(0.10, 0.18)])
        pause, closing = int(rng.integers(0, 3)), int(rng.integers(7, 11))
        start = self.body_position(CUBE)

        def above_cube(offset: Array) -> Pose:
            return Pose(self.body_position(CUBE) + offset, rotation)

        def above_start() -> Pose:
            return Pose(start + raised, rotation)

        phases = (
            # the yaw must be near before going down, or a finger lands on the cube
            Phase("hover", lambda: above_cube(hover), OPEN, 1, 60, tolerance=(0.02, 0.2)),
            Phase("down", lambda: above_cube(grasp), OPEN, 1, 50, tolerance=(0.009, 0.12), noise=0.5),
            Phase("wait", lambda: above_cube(grasp), OPEN, pause, pause, noise=0.4),
            Phase("close", lambda: above_cube(grasp), CLOSE, closing, closing, noise=0.4),
            Phase("lift", above_start, CLOSE, 1, 60),
        )
        return (phases,)

    def _grasp_yaw(self) -> float:
        """Yaw that puts the fingers on faces of the cube: the nearest to the hand's, at times the next."""
        yaws = face_yaws(self.body_rotation(CUBE), yaw_of(self.hand().rotation))
        second = self.rng.random() < SECOND_GRASP_PROBABILITY
        self.strategy["grasp"] = "farther faces" if second else "nearer faces"
        return yaws[int(second)]
