"""Can: take the can from its bin, carry it over the wall, put it into its compartment of the other bin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.experts.common import PhasedExpert
from envs.experts.paths import beside, beyond, pulled_in
from envs.experts.phases import CLOSE, OPEN, Habits, Phase
from envs.experts.poses import Array, Pose, pointing_down

CAN, BASE = "Can_main", "robot0_base"
HOME_YAW = np.pi / 2
# the middle of the compartment is out of reach of a hand that points down; this is inside it, nearer to the robot
DROP = np.array([0.155, 0.345])
# metres beside the straight way; to the right the arm is soon stretched
BESIDE = {"left": (0.07, 0.11), "right": (-0.08, -0.05)}
# metres from the base at which the arm is not stretched yet, wherever the hand goes around by
REACH = 0.76
# metres beside the can's middle from which the hand may go down
CENTRED = 0.01
# degrees that the round can is grasped at, against the hand's first yaw
GRASPS = {"straight": (-10.0, 10.0), "turned left": (30.0, 50.0), "turned right": (-50.0, -30.0)}


class CanExpert(PhasedExpert):
    """Grasps the can at one of three yaws, carries it left or right of the straight way, at times after going too far.

    Heights, offsets, tilt and pauses vary too.
    """

    def plan(self) -> Sequence[Sequence[Phase]]:
        """Fetch and deliver."""
        low, high = GRASPS[self.choose("grasp", *GRASPS)]
        yaw = HOME_YAW + np.deg2rad(self.rng.uniform(low, high))
        rotation = self.tilt(2.3) @ pointing_down(yaw)
        return ([*self._fetch(rotation), *self._deliver(rotation)],)

    def draw_habits(self) -> Habits:
        """Brisker than elsewhere: the way is long."""
        return Habits.draw(self.rng, speed=(0.8, 1.0))

    def _fetch(self, rotation: Array) -> list[Phase]:
        rng = self.rng
        hover = self.hover(0.08, 0.13)
        grasp = np.array([0.0, 0.0, rng.uniform(0.0, 0.025)])
        pause, closing = int(rng.integers(0, 3)), int(rng.integers(6, 10))
        overshot = self.choose("approach", "direct", "overshot") == "overshot"
        start, too_far = self.hand().position, rng.uniform(0.05, 0.08)

        def over_can(offset: Array) -> Pose:
            return Pose(self.body_position(CAN) + offset, rotation)

        def past_can() -> Pose:
            point = beyond(start, over_can(hover).position, too_far)
            return Pose(pulled_in(point, self.body_position(BASE), REACH), rotation)

        def lowered() -> Pose:
            goal, hand = over_can(grasp), self.hand().position
            off = np.linalg.norm(hand[:2] - goal.position[:2])
            # sideways first: beside its middle a finger would come down on the can
            height = min(hand[2], over_can(hover).position[2]) if off > CENTRED else goal.position[2]
            return Pose(np.append(goal.position[:2], height), rotation)

        past = Phase("past", past_can, OPEN, 1, 60, tolerance=(0.025, np.inf))
        return [
            *([past] if overshot else []),
            Phase("hover", lambda: over_can(hover), OPEN, 1, 60, tolerance=(0.02, 0.2)),
            Phase("down", lowered, OPEN, 1, 40, tolerance=(0.009, 0.12), noise=0.5, apart=True, retry="hover"),
            Phase("wait", lambda: over_can(grasp), OPEN, pause, pause, noise=0.4),
            Phase("close", lambda: over_can(grasp), CLOSE, closing, closing, noise=0.4),
        ]

    def _deliver(self, rotation: Array) -> list[Phase]:
        rng = self.rng
        # the can's bottom has to pass over the wall between the bins, which ends at 0.90
        raised, carried = rng.uniform(1.02, 1.07), rng.uniform(1.02, 1.10)
        aside = rng.uniform(*BESIDE[self.choose("path", *BESIDE)])
        drop = np.append(DROP + rng.uniform(-0.015, 0.015, 2), carried)
        put = np.append(drop[:2], rng.uniform(0.90, 0.95))
        start = np.append(self.body_position(CAN)[:2], raised)
        around = pulled_in(beside(start, drop, aside), self.body_position(BASE), REACH)
        opening = int(rng.integers(6, 9))

        return [
            Phase("lift", lambda: Pose(start, rotation), CLOSE, 1, 60, tolerance=(0.03, np.inf), noise=0.7),
            Phase("around", lambda: Pose(around, rotation), CLOSE, 1, 60, tolerance=(0.05, np.inf), noise=0.7),
            Phase("carry", lambda: Pose(drop, rotation), CLOSE, 1, 80, tolerance=(0.03, np.inf), noise=0.7),
            Phase("put", lambda: Pose(put, rotation), CLOSE, 1, 40, tolerance=(0.02, np.inf), noise=0.5),
            Phase("open", lambda: Pose(put, rotation), OPEN, opening, opening, noise=0.4),
            Phase("back", lambda: Pose(drop, rotation), OPEN, 1, 1),
        ]
