"""Transport: one arm opens a bin and hands the hammer in it over; the other clears its bin and lays it down there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial

import numpy as np
from scipy.spatial.transform import Rotation

from envs.experts.common import PhasedExpert
from envs.experts.phases import CLOSE, OPEN, Habits, Phase
from envs.experts.poses import UP, Array, Pose, face_yaws, hand_rotation, pointing_down, yaw_along

GIVER, TAKER = 0, 1

HAMMER, TRASH = "payload_root", "trash_main"
LID_HANDLE = "transport_start_bin_lid_handle"
START_BIN = "transport_start_bin_root"
TARGET_BIN, TRASH_BIN = "transport_target_bin_root", "transport_trash_bin_root"

# metres from a bin's middle down to its floor
BIN_FLOOR = 0.065
# longer than any episode: the arm waits for the other one
NO_LIMIT = 1000
# the grips lie on either side of the hammer's middle; nearer to each other the hands would touch, farther from
# each other the giver's hand would meet its bin and come too near to its base
GIVER_GRIP, TAKER_GRIP = 0.025, 0.07
# the taker leans back from the giver's hand
TAKER_LEAN = np.deg2rad(12.0)
# metres from the y axis: the joints of an arm bent nearer to its base are at their limits
PATHS = {"near": 0.40, "far": 0.30}


class TransportExpert(PhasedExpert):
    """Plays both arms at once; they wait for each other only at the hand-over.

    Ways chosen: which arm begins, near or far path of lid and trash, approach of lid and hammer straight or
    corrected, and which faces of the trash are grasped; speed, heights, grips, pauses before the grasps
    and the hand-over's place vary too.
    """

    def draw_habits(self) -> Habits:
        """Fast ones: the task is long."""
        return Habits.draw(self.rng, speed=(0.8, 1.0))

    def plan(self) -> Sequence[Sequence[Phase]]:
        """The giver: lid, hammer, hand-over. The taker: trash, take, lay down."""
        giver = [*self._open_bin(), *self._fetch_hammer(), *self._give()]
        taker = [*self._clear_bin(), *self._take(), *self._lay_down()]
        return giver, taker

    @cached_property
    def _head_first(self) -> bool:
        """Whether the hammer's head points to the taker where it lies at first, when the plan asks."""
        return bool(self.body_rotation(HAMMER)[1, 2] > 0)

    def _open_bin(self) -> list[Phase]:
        rng = self.rng
        rotation = self.tilt(1.5) @ pointing_down(np.pi)
        above, raised = rng.uniform(0.06, 0.10), rng.uniform(0.07, 0.11)
        grasp = np.array([0.0, rng.uniform(-0.015, 0.015), rng.uniform(0.0, 0.006)])
        via = self._via("lid path", rng.uniform(1.05, 1.10), -1)
        beside, down = np.array([-0.21, -0.45, 1.0]), 0.165 * UP
        beside[:2] += rng.normal(0.0, 0.004, 2)

        def at_handle(height: float) -> Pose:
            return Pose(self.geom_position(LID_HANDLE) + grasp + height * UP, rotation)

        def at(position: Array) -> Callable[[], Pose]:
            return lambda: Pose(position, rotation)

        on_handle = partial(at_handle, 0.0)
        pause, closing, opening = int(rng.integers(0, 4)), int(rng.integers(10, 13)), int(rng.integers(6, 9))
        return [
            *self._corrected("lid approach", partial(at_handle, above)),
            Phase("above lid", partial(at_handle, above), OPEN, 1, 60, tolerance=(0.02, 0.15)),
            Phase("down to lid", on_handle, OPEN, 1, 50, tolerance=(0.005, 0.08), noise=0.4),
            Phase("wait at lid", on_handle, OPEN, pause, pause, noise=0.3),
            Phase("close on lid", cache(on_handle), CLOSE, closing, closing, noise=0.3),
            Phase("raise lid", self._rising(GIVER, raised), CLOSE, 1, 30, tolerance=(0.03, 0.2)),
            Phase("carry lid", at(via), CLOSE, 1, 60, tolerance=(0.05, 0.3)),
            Phase("lid beside bin", at(beside), CLOSE, 1, 60, tolerance=(0.03, 0.2)),
            Phase("lower lid", at(beside - down), CLOSE, 1, 40, tolerance=(0.008, 0.2)),
            Phase("let lid go", at(beside - down), OPEN, opening, opening, noise=0.3),
            Phase("leave lid", self._rising(GIVER, 0.10), OPEN, 1, 20, tolerance=(0.03, 0.3), noise=0.5),
            Phase("back to bin", at(via + 0.02 * UP), OPEN, 1, 60, tolerance=(0.06, 0.4)),
        ]

    def _fetch_hammer(self) -> list[Phase]:
        rng = self.rng
        above, along, depth = rng.uniform(0.13, 0.17), rng.uniform(-0.003, 0.003), rng.uniform(0.0, 0.004)
        pause, closing = int(rng.integers(0, 4)), int(rng.integers(12, 15))
        # the arm sags towards its base in the lift, which is away from the head where that points to the taker
        aside = rng.uniform(0.005, 0.009) if self._head_first else rng.uniform(0.017, 0.022)

        def at_hammer(height: float) -> Pose:
            handle = self._handle()
            across = np.cross(UP, handle)
            position = self.body_position(HAMMER) - (GIVER_GRIP + along) * handle
            return Pose(position, pointing_down(yaw_along(across))).raised(depth + height)

        def free_of_walls(height: float) -> Pose:
            away = -self._handle() if self._head_first else self._handle()
            shift = self.body_position(START_BIN) + aside * away - self.body_position(HAMMER)
            return self.hand(GIVER).moved(shift).at_height(height)

        def barely_raised() -> Pose:
            return free_of_walls(self.hand(GIVER).position[2] + 0.012)

        def out_of_bin() -> Pose:
            hand = self.hand(GIVER)
            return Pose(np.array([hand.position[0], -0.40, 1.04]), hand.rotation)

        on_hammer, lifted = partial(at_hammer, 0.0), cache(partial(free_of_walls, 1.02))
        return [
            *self._corrected("hammer approach", partial(at_hammer, above)),
            # an arm that has just swung far still shifts its elbow: it must be still before it goes down
            Phase("above hammer", partial(at_hammer, above), OPEN, 1, 70, (0.012, 0.06), noise=0.4, settle=5),
            Phase("down to hammer", on_hammer, OPEN, 1, 80, (0.006, 0.06), noise=0.3, settle=4, speed=0.5, apart=True),
            Phase("wait at hammer", on_hammer, OPEN, pause, pause, noise=0.2),
            Phase("close on hammer", cache(on_hammer), CLOSE, closing, closing, noise=0.2),
            # the hammer's ends are near the bin's walls, where its head would be held back: first away from that
            # wall, then up, and only then sideways
            Phase("free hammer", cache(barely_raised), CLOSE, 1, 25, (0.005, 0.1), noise=0.2, settle=2, gain=3.0),
            Phase("lift hammer", lifted, CLOSE, 1, 50, (0.015, 0.2), noise=0.3, gain=3.0, speed=0.8, apart=True),
            Phase("out of bin", cache(out_of_bin), CLOSE, 1, 30, tolerance=(0.03, 0.3), noise=0.5),
        ]

    def _give(self) -> list[Phase]:
        rng = self.rng
        centre = np.array([0.0, -0.03, 1.10]) + rng.uniform(-0.02, 0.02, 3) * [1.0, 0.5, 1.0]
        opening = int(rng.integers(9, 12))

        def offer() -> Pose:
            return self._carrying_hammer(GIVER, centre, np.array([0.0, 1.0, 0.0]))

        rest = Pose(np.array([rng.uniform(-0.05, 0.10), -0.42, rng.uniform(1.10, 1.18)]), pointing_down(np.pi))
        return [
            Phase("offer hammer", offer, CLOSE, 1, 80, (0.008, 0.06), settle=2, noise=0.5),
            Phase("hold hammer", offer, CLOSE, 1, NO_LIMIT, noise=0.2, until=lambda: self.begun(TAKER, "hold too")),
            Phase("let hammer go", self._rising(GIVER, 0.0), OPEN, opening, opening, noise=0.2),
            # while the taker stands still: the hammer's head must not be dragged along
            Phase("rise from hammer", self._rising(GIVER, 0.12), OPEN, 1, 30, tolerance=(0.02, 0.3), noise=0.3),
            Phase("rest", lambda: rest, OPEN, 1, NO_LIMIT, noise=0.7),
        ]

    def _clear_bin(self) -> list[Phase]:
        rng = self.rng
        rotation = self.tilt(1.5) @ pointing_down(self._trash_yaw())
        above, depth = rng.uniform(0.14, 0.19), rng.uniform(-0.004, 0.004)
        raised, drop = rng.uniform(0.16, 0.20), rng.uniform(0.11, 0.14)
        via = self._via("trash path", rng.uniform(1.06, 1.11), 1)
        pause, closing, opening = int(rng.integers(0, 4)), int(rng.integers(10, 14)), int(rng.integers(5, 8))
        off = np.append(rng.normal(0.0, 0.015, 2), drop)

        def at_trash(height: float) -> Pose:
            return Pose(self.body_position(TRASH), rotation).raised(depth + height)

        def above_trash_bin() -> Pose:
            return Pose(self.body_position(TRASH_BIN) + off, rotation)

        on_trash, lifted = partial(at_trash, 0.0), cache(partial(at_trash, raised))
        return [
            *self._turn_to_begin(),
            Phase("above trash", partial(at_trash, above), OPEN, 1, 70, (0.012, 0.08), noise=0.5, settle=3),
            Phase("down to trash", on_trash, OPEN, 1, 60, (0.006, 0.1), noise=0.4, settle=2, speed=0.7, apart=True),
            Phase("wait at trash", on_trash, OPEN, pause, pause, noise=0.3),
            Phase("close on trash", cache(on_trash), CLOSE, closing, closing, noise=0.3),
            Phase("lift trash", lifted, CLOSE, 1, 40, tolerance=(0.03, 0.3), noise=0.5),
            Phase("carry trash", lambda: Pose(via, rotation), CLOSE, 1, 60, tolerance=(0.05, 0.4)),
            Phase("above trash bin", above_trash_bin, CLOSE, 1, 60, tolerance=(0.03, 0.3)),
            Phase("drop trash", above_trash_bin, OPEN, opening, opening, noise=0.3),
        ]

    def _turn_to_begin(self) -> list[Phase]:
        """The taker begins at once, or looks on until the giver has the lid."""
        first = self.choose("order", "together", "lid first")
        if first == "together":
            return []
        start = self.hand(TAKER)
        lid = "raise lid" if self.rng.random() < 0.5 else "carry lid"
        return [Phase("look on", lambda: start, OPEN, 1, 120, until=lambda: self.begun(GIVER, lid))]

    def _take(self) -> list[Phase]:
        rng = self.rng
        wait = np.array([0.0, 0.22, 1.15]) + rng.uniform(-0.02, 0.02, 3)
        above, along, depth = rng.uniform(0.08, 0.12), rng.uniform(0.0, 0.005), rng.uniform(-0.002, 0.004)
        closing = int(rng.integers(12, 15))
        leaning = Rotation.from_rotvec([-TAKER_LEAN, 0.0, 0.0]).as_matrix() @ pointing_down(0.0)

        def at_hammer(height: float) -> Pose:
            handle = self._handle()
            across = np.cross(handle, UP)
            across /= np.linalg.norm(across)
            up = np.cross(across, handle)
            approach = -np.cos(TAKER_LEAN) * up - np.sin(TAKER_LEAN) * handle
            position = self.body_position(HAMMER) + (TAKER_GRIP + along) * handle + depth * up
            return Pose(position, hand_rotation(across, approach)).along_approach(-height)

        def offered() -> bool:
            return self.begun(GIVER, "hold hammer")

        def given() -> bool:
            return self.begun(GIVER, "rest")

        return [
            Phase("wait for hammer", lambda: Pose(wait, leaning), OPEN, 1, NO_LIMIT, noise=0.7, until=offered),
            Phase("near hammer", partial(at_hammer, above), OPEN, 1, 50, tolerance=(0.012, 0.08), noise=0.5),
            Phase("to hammer", partial(at_hammer, 0.0), OPEN, 1, 60, (0.005, 0.06), settle=3, noise=0.3, speed=0.6),
            Phase("close too", cache(partial(at_hammer, 0.0)), CLOSE, closing, closing, noise=0.2),
            Phase("hold too", self._rising(TAKER, 0.0), CLOSE, 1, NO_LIMIT, noise=0.2, until=given),
        ]

    def _lay_down(self) -> list[Phase]:
        rng = self.rng
        height, release = rng.uniform(0.22, 0.27), rng.uniform(0.055, 0.075)
        shift = np.array([rng.uniform(0.0, 0.008), rng.normal(0.0, 0.005), 0.0])
        clear = np.array([0.0, 0.36, 1.15]) + rng.uniform(-0.015, 0.015, 3)

        def away() -> Pose:
            return self.hand(TAKER).moved(np.array([0.0, 0.05, 0.06]))

        def clear_of_giver() -> Pose:
            return Pose(clear, self._carrying_hammer(TAKER, clear, np.array([0.0, 1.0, 0.0])).rotation)

        def over_bin(above: float) -> Pose:
            centre = self.body_position(TARGET_BIN) + shift + (above - BIN_FLOOR) * UP
            return self._carrying_hammer(TAKER, centre, np.array([-1.0, 0.0, 0.0]))

        opening = int(rng.integers(8, 11))
        return [
            Phase("take away", cache(away), CLOSE, 1, 30, tolerance=(0.03, 0.3), noise=0.3),
            Phase("clear of giver", clear_of_giver, CLOSE, 1, 50, tolerance=(0.03, 0.2), noise=0.5),
            Phase("over bin", partial(over_bin, height), CLOSE, 1, 80, tolerance=(0.010, 0.08), noise=0.4),
            Phase("lower hammer", partial(over_bin, release), CLOSE, 1, 40, (0.008, 0.1), noise=0.4, speed=0.6),
            Phase("lay hammer down", self._rising(TAKER, 0.0), OPEN, opening, opening, noise=0.3),
            Phase("leave hammer", self._rising(TAKER, 0.15), OPEN, 1, NO_LIMIT, noise=0.5),
        ]

    def _via(self, choice: str, height: float, side: int) -> Array:
        """Point (3,) between the two bins of a table, near to its arm or far from it; `side` is the sign of y."""
        return np.array([self.rng.normal(0.0, 0.01), side * PATHS[self.choose(choice, *PATHS)], height])

    def _corrected(self, choice: str, goal: Callable[[], Pose]) -> list[Phase]:
        """Before a goal, a phase that goes too far, or aside; or none."""
        length, angle = self.rng.uniform(0.04, 0.06), self.rng.uniform(-0.6, 0.6)
        offset = length * np.array([np.cos(angle), np.sin(angle), 0.0])
        if self.choose(choice, "straight", "corrected") == "straight":
            return []

        def beyond() -> Pose:
            return goal().moved(offset)

        return [Phase(f"beyond, {choice}", beyond, OPEN, 1, 60, tolerance=(0.02, 0.3))]

    def _trash_yaw(self) -> float:
        """Yaw that puts the fingers on two faces of the trash: those that ask for the smaller turn, or the others."""
        nearest, second, *_ = face_yaws(self.body_rotation(TRASH), 0.0)
        return nearest if self.choose("trash grasp", "nearer faces", "farther faces") == "nearer faces" else second

    def _handle(self) -> Array:
        """Direction (3,) along the hammer's handle, away from the giver."""
        along = self.body_rotation(HAMMER)[:, 2]
        return along if self._head_first else -along

    def _carrying_hammer(self, arm: int, centre: Array, direction: Array) -> Pose:
        """The upright hand that brings the held hammer's middle to `centre`, its `_handle` above `direction`."""
        hand = self.hand(arm)
        handle = hand.rotation.T @ self._handle()
        turn = pointing_down(yaw_along(direction) + yaw_along(handle)) @ hand.rotation.T
        return self.carrying(HAMMER, Pose(centre, turn @ self.body_rotation(HAMMER)), arm)

    def _rising(self, arm: int, height: float) -> Callable[[], Pose]:
        """The hand, above where it was when the phase began."""
        return cache(lambda: self.hand(arm).raised(height))
