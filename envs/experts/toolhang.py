"""ToolHang: stand the frame in the tube of the stand, then thread the tool's ring over the frame's hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from envs.experts.common import PhasedExpert
from envs.experts.paths import beside, beyond
from envs.experts.phases import CLOSE, OPEN, Habits, Phase
from envs.experts.poses import Array, Pose, hand_rotation

FRAME, TOOL = "frame_root", "tool_root"
TIP, ARM_END, RING = "frame_tip_site", "frame_hang_site", "tool_hole1_center"
FRAME_GRIP = "frame_grip_frame"
TUBE_WALLS = tuple(f"stand_wall{i}" for i in range(4))

# the frame stands with its arm away from the robot: the other ways lead into the limits of the wrist's joints
UPRIGHT = np.diag([-1.0, -1.0, 1.0])
# hand against the object, in radians: where the hand leans when it grasps
FRAME_LEAN, TOOL_LEAN = np.deg2rad(40), np.deg2rad(30)
# world height at which nothing that is carried touches the standing frame
CLEAR_HEIGHT = 1.22

# poses of the ring against the end of the arm: metres outward, metres up, radians of tilt. Arm and stub are as high
# as the ring is wide, so it has to be led around the bend; the clearance is 2 mm where it is tightest
ABOVE_HOOK = np.array([0.0, 0.045, np.deg2rad(20)])
THREAD = tuple(
    (steps, np.array([outward / 1000, up / 1000, np.deg2rad(tilt)]), metres)
    for steps, outward, up, tilt, metres in (
        (10, -3.6, 20, 20, 0.0015),
        (8, -3.8, 8, 24, 0.001),
        (8, -4.2, 4.2, 32, 0.001),
        (12, -5.2, 1.4, 45, 0.001),
        (10, -8, 0, 55, 0.001),
        (8, -14, 0, 66, 0.0015),
        (6, -22, 0, 70, 0.0015),
    )
)

fine = partial(Phase, grip=CLOSE, min_steps=1, max_steps=60, gain=3.0, noise=0.1)
"""A phase of what has little clearance."""


class ToolHangExpert(PhasedExpert):
    """Takes the frame, turns it upright, seats it; takes the tool, lifts it clear, leads its ring around the hook.

    Paths to either object, the turn of the frame and both aims are strategies; heights, offsets, and pauses vary too.
    """

    def plan(self) -> Sequence[Sequence[Phase]]:
        """Fetch, turn, aim and seat the frame; fetch, carry and thread the tool."""
        return ([*self._fetch_frame(), *self._stand_frame(), *self._fetch_tool(), *self._hang_tool()],)

    def draw_habits(self) -> Habits:
        """Brisker than elsewhere: the task is long."""
        return Habits.draw(self.rng, speed=(0.7, 1.0))

    def _fetch_frame(self) -> list[Phase]:
        along = self.rng.uniform(-0.004, 0.004)
        back = self.rng.uniform(0.10, 0.13)

        def grasp() -> Pose:
            frame = self.body_rotation(FRAME)
            approach = np.cos(FRAME_LEAN) * frame[:, 1] - np.sin(FRAME_LEAN) * frame[:, 2]
            return Pose(self.geom_position(FRAME_GRIP) + along * frame[:, 2], hand_rotation(frame[:, 0], approach))

        height = self.rng.uniform(0.18, 0.22)
        raised = cache(lambda: self.hand().raised(height))
        return [
            *self._grasp("frame", grasp, lambda pose: pose.along_approach(-back)),
            Phase("lift frame", raised, CLOSE, 1, 40, tolerance=(0.03, 0.3), noise=0.5),
        ]

    def _fetch_tool(self) -> list[Phase]:
        along = self.rng.uniform(-0.005, 0.005)
        above = self.rng.uniform(0.12, 0.16)

        def grasp() -> Pose:
            tool = self.body_rotation(TOOL)
            approach = np.sin(TOOL_LEAN) * tool[:, 0] - np.cos(TOOL_LEAN) * tool[:, 2]
            # fingers the other way round would leave the last joint little to turn
            return Pose(self.body_position(TOOL) + along * tool[:, 0], hand_rotation(-tool[:, 1], approach))

        clear = cache(lambda: self.hand().at_height(CLEAR_HEIGHT))
        return [
            *self._grasp("tool", grasp, lambda pose: pose.raised(above)),
            # up at once: on a slant the tool would sweep the frame's arm aside
            Phase("lift tool", clear, CLOSE, 1, 60, tolerance=(0.02, 0.2), noise=0.5),
        ]

    def _grasp(self, item: str, grasp: Callable[[], Pose], before: Callable[[Pose], Pose]) -> list[Phase]:
        """Around to the one side or the other, up to the object, onto it, close."""
        sign = {"left": 1.0, "right": -1.0}[self.choose(f"path to {item}", "left", "right")]
        aside = sign * self.rng.uniform(0.05, 0.09)
        pause, closing = int(self.rng.integers(0, 4)), int(self.rng.integers(11, 14))

        def around() -> Pose:
            hand, goal = self.hand(), before(grasp())
            return Pose(beside(hand.position, goal.position, aside), goal.rotation).at_height(hand.position[2])

        held = cache(grasp)
        return [
            Phase(f"way to {item}", cache(around), OPEN, 1, 60, tolerance=(0.03, np.inf)),
            Phase(f"above {item}", lambda: before(grasp()), OPEN, 1, 80, tolerance=(0.015, 0.15)),
            Phase(f"down to {item}", grasp, OPEN, 1, 50, tolerance=(0.005, 0.06), noise=0.3, speed=0.8),
            Phase("wait", grasp, OPEN, pause, pause, noise=0.3),
            Phase(f"close on {item}", held, CLOSE, closing, closing, noise=0.3),
        ]

    def _stand_frame(self) -> list[Phase]:
        tube = np.mean([self.geom_position(wall) for wall in TUBE_WALLS], axis=0)
        turn_first = self.choose("turn of frame", "on the way", "before the way") == "before the way"
        overshoot = self.choose("aim at tube", "direct", "overshot") == "overshot"
        too_far = self.rng.uniform(0.03, 0.045)
        turn_height, high = self.rng.uniform(0.96, 1.02), self.rng.uniform(1.005, 1.03)
        start = cache(lambda: self.geom_position(FRAME_GRIP))
        released, raised = cache(self.hand), cache(lambda: self.hand().at_height(CLEAR_HEIGHT))
        back = cache(lambda: self.hand().along_approach(-0.12))

        def tip(over: Array, height: float) -> Pose:
            return self._carrying_site(FRAME, TIP, Pose(over, UPRIGHT).at_height(height))

        free = partial(Phase, grip=CLOSE, min_steps=1, max_steps=80)
        turn = free("turn frame", lambda: tip(start(), turn_height), tolerance=(0.03, 0.2), noise=0.5)
        past = free("past tube", lambda: tip(beyond(start(), tube, too_far), high), tolerance=(0.012, 0.2), noise=0.5)
        return [
            *([turn] if turn_first else []),
            *([past] if overshoot else []),
            free("above tube", lambda: tip(tube, high), tolerance=(0.01, 0.05), noise=0.3),
            fine("aim at tube", lambda: tip(tube, 0.975), tolerance=(0.0015, 0.02), settle=3, speed=0.5),
            fine("enter tube", lambda: tip(tube, 0.93), tolerance=(0.003, 0.05), speed=0.3, retry="above tube"),
            fine("seat frame", lambda: tip(tube, 0.807), tolerance=(0.006, 0.05), speed=0.6, retry="above tube"),
            Phase("let go of frame", released, OPEN, 8, 8, noise=0.1),
            Phase("back", back, OPEN, 1, 20, tolerance=(0.03, 0.3), noise=0.3),
            Phase("up", raised, OPEN, 1, 30, tolerance=(0.04, 0.3)),
        ]

    def _hang_tool(self) -> list[Phase]:
        # where the frame stands before the tool comes near: followed, it would run away from a ring that touches it
        arm = cache(lambda: Pose(self.site_position(ARM_END), self.body_rotation(FRAME)))
        nearest = {"from beyond its end": 0.04, "from over the arm": -0.04}
        outward = nearest[self.choose("way to hook", *nearest)] + self.rng.uniform(0.0, 0.02)
        far = np.array([outward, self.rng.uniform(0.13, 0.16), ABOVE_HOOK[2]])
        released, back = cache(self.hand), cache(lambda: self.hand().along_approach(-0.1))

        def ring(place: Array) -> Pose:
            return self._carrying_site(TOOL, RING, ring_pose(arm(), *place))

        def led(start: Array, end: Array, steps: int) -> Pose:
            # in step: turning is quicker than moving, and the ring would jam
            return ring(start + (end - start) * min(1.0, (self.steps_in_phase() + 1) / steps))

        places = [ABOVE_HOOK, *(place for _, place, _ in THREAD)]
        thread = [
            fine("thread ring", partial(led, start, end, steps), min_steps=steps, tolerance=(metres, 0.02))
            for start, (steps, end, metres) in zip(places, THREAD, strict=False)
        ]
        return [
            Phase("way to hook", lambda: ring(far), CLOSE, 1, 80, tolerance=(0.03, 0.3), noise=0.5),
            Phase("above hook", lambda: ring(ABOVE_HOOK), CLOSE, 1, 80, tolerance=(0.004, 0.05), noise=0.2, gain=3.0),
            *thread,
            Phase("let go of tool", released, OPEN, 8, 8, noise=0.1),
            Phase("away", back, OPEN, 1, 1, noise=0.3),
        ]

    def _carrying_site(self, body: str, site: str, goal: Pose) -> Pose:
        """The hand's pose that brings a site of a held body to a position, and the body to a rotation."""
        held = self.pose(body)
        offset = held.rotation.T @ (self.site_position(site) - held.position)
        return self.carrying(body, Pose(goal.position - goal.rotation @ offset, goal.rotation))


def ring_pose(arm: Pose, outward: float, up: float, tilt: float) -> Pose:
    """The tool with its ring at a place (metres) and tilt (rad) against the arm of the frame, which points to -x."""
    out, high = -arm.rotation[:, 0], arm.rotation[:, 2]
    along, axis = np.cos(tilt) * out - np.sin(tilt) * high, np.sin(tilt) * out + np.cos(tilt) * high
    return Pose(arm.position + outward * out + up * high, np.column_stack([along, np.cross(axis, along), axis]))
