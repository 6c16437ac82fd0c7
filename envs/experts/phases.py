"""Phases as data, and the proportional law on the hand's pose that plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from envs.experts.poses import Array, Pose
from envs.state import controllers

if TYPE_CHECKING:
    from envs.robosuite_env import RobosuiteEnv

OPEN, CLOSE = -1.0, 1.0
NOISE_MEMORY = 0.7
# noise on rotation is smaller: the same number turns the hand far more than it moves it
NOISE_SCALE = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])
# times that a phase which took too long is tried again from an earlier one
RETRIES = 2


@dataclass(frozen=True)
class Habits:
    """How one expert moves during one episode.

    speed, turn: largest number of the position and rotation part of an action; gain, turn_gain: of the
    proportional law; noise: standard deviation of the noise, in numbers of an action.
    """

    speed: float
    gain: float
    turn: float
    turn_gain: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator, speed: tuple[float, float] = (0.65, 1.0)) -> Habits:
        """Habits within the ranges that were found to succeed."""
        return cls(
            speed=rng.uniform(*speed),
            gain=rng.uniform(1.6, 2.6),
            turn=rng.uniform(0.5, 0.9),
            turn_gain=rng.uniform(1.2, 2.0),
            noise=rng.uniform(0.03, 0.10),
        )


@dataclass(frozen=True)
class Phase:
    """A stretch of the task: where one hand goes, and when the next one begins.

    target: called at every step, so that it may follow an object; within `functools.cache` it stays where it was
    when the phase began. The phase ends after min_steps, once the hand has been within tolerance (metres, radians)
    for `settle` steps if one is given and `until` is true if one is given, and after max_steps at the latest; the
    last phase goes on for ever. noise: factor on the expert's noise, below 1 where precision counts. speed: bound on
    the position part of an action, where the habits' is too large. gain: of the proportional law, instead of the
    habits' two. apart: bound height and the horizontal part apart, so that a long way down does not starve the
    correction sideways. retry: phase to go back to where max_steps have passed, `RETRIES` times at most.
    """

    name: str
    target: Callable[[], Pose]
    grip: float
    min_steps: int
    max_steps: int
    tolerance: tuple[float, float] | None = None
    noise: float = 1.0
    settle: int = 1
    until: Callable[[], bool] | None = None
    speed: float = np.inf
    gain: float | None = None
    apart: bool = False
    retry: str = ""


class Arm:
    """One arm of an environment: where its hand is, and how world actions read in its controller's frame."""

    def __init__(self, env: RobosuiteEnv, index: int = 0) -> None:
        self.env, self.index = env, index
        scale = np.array(env.action_convention["controller"]["output_max"])
        self.metres, self.radians = scale[0], scale[3]

    def hand(self) -> Pose:
        """Pose of the point between the fingertips, which is what the controller moves.

        Not the observation `eef_quat`: that is the hand's body, turned by 90 degrees against it.
        """
        sim_env = self.env.sim_env
        site = sim_env.robots[self.index].eef_site_id["right"]
        data = sim_env.sim.data
        return Pose(np.array(data.site_xpos[site]), np.array(data.site_xmat[site]).reshape(3, 3))

    def in_controller_frame(self, vector: Array) -> Array:
        """A world vector (3,) in the frame of the controller's actions."""
        if self.env.frame == "world":
            return vector
        return controllers(self.env.sim_env)[self.index].origin_ori.T @ vector


class Track:
    """Plays the phases of one arm."""

    def __init__(self, arm: Arm, phases: Sequence[Phase], habits: Habits, rng: np.random.Generator) -> None:
        self.arm, self.habits, self.rng = arm, habits, rng
        self._phases = phases
        self._index = 0
        self.steps = 0
        self._settled = 0
        self._retries: dict[str, int] = {}
        self._noise = np.zeros(6)

    @property
    def phase(self) -> Phase:
        """The phase that gave the last action."""
        return self._phases[self._index]

    def begun(self, name: str) -> bool:
        """Whether the first phase of that name has begun, or is over."""
        return name in (phase.name for phase in self._phases[: self._index + 1])

    def act(self) -> Array:
        """The next action of this arm, (7,) float64 in [-1, 1]."""
        phase, target = self._current()
        hand, arm = self.arm.hand(), self.arm
        gain, turn_gain = (self.habits.gain, self.habits.turn_gain) if phase.gain is None else (phase.gain, phase.gain)
        move = gain * (target.position - hand.position) / arm.metres
        move = _limit_apart(move, min(self.habits.speed, phase.speed), phase.apart)
        error = Rotation.from_matrix(target.rotation @ hand.rotation.T).as_rotvec()
        turn = limit(turn_gain * error / arm.radians, self.habits.turn)
        kick = np.sqrt(1 - NOISE_MEMORY**2) * self.habits.noise * self.rng.standard_normal(6)
        self._noise = NOISE_MEMORY * self._noise + kick
        pose = np.concatenate([arm.in_controller_frame(move), arm.in_controller_frame(turn)])
        self.steps += 1
        return np.append(np.clip(pose + phase.noise * NOISE_SCALE * self._noise, -1.0, 1.0), phase.grip)

    def _current(self) -> tuple[Phase, Pose]:
        """The phase to act in and its target, after moving on if the last one has ended."""
        target = self.phase.target()
        self._settled = self._settled + 1 if self._is_near(target) else 0
        while self._index + 1 < len(self._phases) and self._ended():
            self._index = self._next()
            self.steps = 0
            target = self.phase.target()
            self._settled = int(self._is_near(target))
        return self.phase, target

    def _is_near(self, target: Pose) -> bool:
        if self.phase.tolerance is None:
            return True
        metres, radians = self.arm.hand().distance(target)
        return metres < self.phase.tolerance[0] and radians < self.phase.tolerance[1]

    def _arrived(self) -> bool:
        phase = self.phase
        if phase.tolerance is not None and self._settled < phase.settle:
            return False
        return phase.until is None or phase.until()

    def _ended(self) -> bool:
        return self.steps >= self.phase.min_steps and (self.steps >= self.phase.max_steps or self._arrived())

    def _next(self) -> int:
        """The phase after this one: the next, or the one to try again from where this one took too long."""
        phase = self.phase
        tried = self._retries.get(phase.name, 0)
        if not phase.retry or tried >= RETRIES or self._arrived():
            return self._index + 1
        self._retries[phase.name] = tried + 1
        return next(i for i, other in enumerate(self._phases) if other.name == phase.retry)


def limit(vector: Array, bound: float) -> Array:
    """The vector, shortened without turning it so that no number exceeds the bound."""
    largest = np.abs(vector).max()
    return vector if largest <= bound else vector * (bound / largest)


def _limit_apart(move: Array, bound: float, apart: bool) -> Array:
    return np.append(limit(move[:2], bound), limit(move[2:], bound)) if apart else limit(move, bound)
