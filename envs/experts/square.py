"""Square: take the nut by its handle, turn it until its handle is in reach, lower it over the peg."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from envs.experts.common import PhasedExpert
from envs.experts.paths import beside, beyond
from envs.experts.phases import CLOSE, OPEN, Phase
from envs.experts.poses import UP, Array, Pose, carried, pointing_down, wrap, yaw_of

NUT, HANDLE, PEG = "SquareNut_main", "SquareNut_handle_site", "peg1"
# the hand's yaw against its first one, in radians, that the wrist can take at the nut and at the peg
AT_NUT = (np.deg2rad(-97), np.deg2rad(120))
AT_PEG = (np.deg2rad(-97), np.deg2rad(187))
HOME_YAW = np.pi / 2
# yaw of the nut on the peg by where its handle points then; the other two ways are at the end of the arm's reach
HANDLE_AT_PEG = {"to the robot": np.pi, "to the right": -np.pi / 2}
# radians of turning that a plan may cost more than the cheapest
SPARE_TURN = np.deg2rad(95)
# so far at most ahead of the nut is its goal, or the hand would turn the short way where the plan is the long one
AHEAD = 1.0
# metres beside the straight way
BESIDE = {"left": (0.05, 0.09), "right": (-0.09, -0.05)}


class Turn(NamedTuple):
    """A way to turn: the hand before the grasp, `half` a turn off the nut's yaw or not, then the nut (rad)."""

    half: float
    handle: str
    hand: float
    nut: float

    @property
    def grasp(self) -> str:
        """The side that the hand turns to before the grasp; no two grasps within reach share it."""
        return "hand turned left" if self.hand > 0 else "hand turned right"


class SquareExpert(PhasedExpert):
    """Grasps the handle from either side, lets it point to the robot or to the right on the peg, where both can be.

    The way to the peg leads left or right of the straight one; at times the hand first goes past the nut. Heights,
    offsets, tilt and pauses vary too.
    """

    def plan(self) -> Sequence[Sequence[Phase]]:
        """Fetch and mount."""
        turn = self._choose_turn()
        return ([*self._fetch(turn), *self._mount(turn)],)

    def _choose_turn(self) -> Turn:
        """First the grasp, then the yaw on the peg, from those that do not cost much more than the best."""
        turns = turns_in_reach(yaw_of(self.body_rotation(NUT)))
        grasp = self.choose("grasp", *dict.fromkeys(turn.grasp for turn in turns))
        ends = {turn.handle: turn for turn in turns if turn.grasp == grasp}
        return ends[self.choose("handle", *ends)]

    def _fetch(self, turn: Turn) -> list[Phase]:
        rng = self.rng
        hover = self.hover(0.06, 0.11)
        # outside of the handle's middle, else the fingers meet the edge of the nut's body
        outward, above = rng.uniform(0.006, 0.014), rng.uniform(0.002, 0.007)
        pause, closing = int(rng.integers(0, 3)), int(rng.integers(9, 12))
        tilt = self.tilt(1.1)
        overshot = self.choose("approach", "direct", "overshot") == "overshot"
        start, too_far = self.hand().position, rng.uniform(0.05, 0.08)

        def at_handle(offset: Array) -> Pose:
            nut = self.body_rotation(NUT)
            position = self.site_position(HANDLE) + outward * nut[:, 0] + above * UP
            return Pose(position + offset, tilt @ pointing_down(yaw_of(nut) + turn.half + HOME_YAW))

        def grasp() -> Pose:
            return at_handle(np.zeros(3))

        def past_nut() -> Pose:
            pose = at_handle(hover)
            return Pose(beyond(start, pose.position, too_far), pose.rotation)

        past = Phase("past", past_nut, OPEN, 1, 60, tolerance=(0.025, np.inf))
        return [
            *([past] if overshot else []),
            Phase("hover", lambda: at_handle(hover), OPEN, 1, 100, tolerance=(0.02, 0.2)),
            Phase("down", grasp, OPEN, 1, 50, tolerance=(0.006, 0.1), noise=0.4),
            Phase("wait", grasp, OPEN, pause, pause, noise=0.3),
            Phase("close", grasp, CLOSE, closing, closing, noise=0.3),
        ]

    def _mount(self, turn: Turn) -> list[Phase]:
        rng = self.rng
        high, low = rng.uniform(0.985, 1.02), rng.uniform(0.905, 0.93)
        peg, nut = self.body_position(PEG)[:2], self.body_position(NUT)[:2]
        above, onto = np.append(peg, high), np.append(peg, low)
        aside = rng.uniform(*BESIDE[self.choose("path", *BESIDE)])
        start = np.append(nut, high)
        around = beside(start, above, aside)
        opening, back = int(rng.integers(8, 11)), rng.uniform(0.08, 0.12)
        released = cache(self.hand)

        def led(goal: Array) -> Pose:
            return self._hand_leading_nut(goal, turn)

        def lowered() -> Pose:
            nut = self.body_position(NUT)
            off = np.linalg.norm(nut[:2] - peg)
            # sideways first: beside the peg the nut would come to lie on its top
            return led(np.append(peg, nut[2]) if off > 0.008 and nut[2] > 0.95 else onto)

        return [
            Phase("lift", lambda: led(start), CLOSE, 1, 60, tolerance=(0.05, np.inf), noise=0.6, apart=True),
            Phase("around", lambda: led(around), CLOSE, 1, 60, tolerance=(0.04, np.inf), noise=0.6),
            Phase("carry", lambda: led(above), CLOSE, 1, 90, tolerance=(0.025, np.inf), noise=0.6),
            Phase("align", lambda: led(above), CLOSE, 3, 120, (0.0055, 0.08), noise=0.3, settle=3, speed=0.5),
            Phase("insert", lowered, CLOSE, 1, 40, (0.008, np.inf), noise=0.3, apart=True, retry="align"),
            Phase("open", released, OPEN, opening, opening, noise=0.3),
            Phase("back", lambda: released().raised(back), OPEN, 1, 1),
        ]

    def _hand_leading_nut(self, goal: Array, turn: Turn) -> Pose:
        """The hand's pose that moves the held nut towards a place, level, and on towards its yaw on the peg."""
        nut, hand = self.pose(NUT), self.hand()
        yaw = yaw_of(nut.rotation)
        # within half a turn of the middle of the planned turn: the sign stays the planned one
        left = turn.nut / 2 + wrap(HANDLE_AT_PEG[turn.handle] - yaw - turn.nut / 2)
        level = Rotation.from_euler("z", yaw + np.clip(left, -AHEAD, AHEAD)).as_matrix()
        return Pose(hand.position + goal - nut.position, carried(hand, nut, Pose(goal, level)).rotation)


def turns_in_reach(nut_yaw: float) -> list[Turn]:
    """The ways to turn that the wrist allows and that do not cost much more than the cheapest."""
    turns = [
        Turn(half, handle, hand, nut)
        for half in (0.0, np.pi)
        for hand in within(nut_yaw + half, AT_NUT)
        for handle, end in HANDLE_AT_PEG.items()
        for nut in (at_peg - hand for at_peg in within(hand + end - nut_yaw, AT_PEG))
    ]
    cheapest = min(abs(turn.hand) + abs(turn.nut) for turn in turns)
    return [turn for turn in turns if abs(turn.hand) + abs(turn.nut) <= cheapest + SPARE_TURN]


def within(angle: float, bounds: tuple[float, float]) -> list[float]:
    """The angles that are the given one but for whole turns and lie within bounds (rad)."""
    low, high = bounds
    first = low + np.mod(angle - low, 2 * np.pi)
    return [float(first)] if first <= high else []
