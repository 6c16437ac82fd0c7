"""What scripted experts share: a proportional law on the hand's pose, habits, noise, phases as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.state import controllers

if TYPE_CHECKING:
    from envs.robosuite_env import RobosuiteEnv

Array = NDArray[np.float64]

OPEN, CLOSE = -1.0, 1.0
# steps an episode goes on after the first of an unbroken run of successful ones, as in robosuite's own
# collection of human demonstrations
HOLD_STEPS = 10
NOISE_MEMORY = 0.7
# noise on rotation is smaller: the same number turns the hand far more than it moves it
NOISE_SCALE = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])


class Pose(NamedTuple):
    """Position (3,) in metres and rotation matrix (3, 3), world frame."""

    position: Array
    rotation: Array

    def distance(self, other: Pose) -> tuple[float, float]:
        """Metres and radians to another pose."""
        angle = Rotation.from_matrix(other.rotation @ self.rotation.T).magnitude()
        return float(np.linalg.norm(other.position - self.position)), float(angle)


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
    def draw(cls, rng: np.random.Generator) -> Habits:
        """Habits within the ranges that were found to succeed."""
        return cls(
            speed=rng.uniform(0.65, 1.0),
            gain=rng.uniform(1.6, 2.6),
            turn=rng.uniform(0.5, 0.9),
            turn_gain=rng.uniform(1.2, 2.0),
            noise=rng.uniform(0.03, 0.10),
        )


@dataclass(frozen=True)
class Phase:
    """A stretch of the task: where the hand goes, and when the next one begins.

    target: called at every step, so that it may follow an object. The phase ends after min_steps, once the
    hand is within tolerance (metres, radians) if one is given, and after max_steps at the latest; the last
    phase goes on for ever. noise: factor on the expert's noise, below 1 where precision counts.
    """

    name: str
    target: Callable[[], Pose]
    grip: float
    min_steps: int
    max_steps: int
    tolerance: tuple[float, float] | None = None
    noise: float = 1.0


def pointing_down(yaw: float) -> Array:
    """Rotation (3, 3) of a hand pointing down, its fingers closing along the world direction `yaw` (rad)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def limit(vector: Array, bound: float) -> Array:
    """The vector, shortened without turning it so that no number exceeds the bound."""
    largest = np.abs(vector).max()
    return vector if largest <= bound else vector * (bound / largest)


class PhasedExpert(ABC):
    """Plays phases one after another; `act` gives the environment's delta action for the present state.

    All draws come from one generator seeded by `seed`. Subclasses give the phases. ValueError if the
    environment takes absolute actions.
    """

    def __init__(self, env: RobosuiteEnv, seed: int) -> None:
        if env.representation != "delta":
            raise ValueError(
                f"{env.task.env_id}: the scripted expert gives delta actions, this environment takes "
                "absolute ones; make it with representation='delta' and take info['actions_abs']"
            )
        self.env = env
        self.rng = np.random.default_rng(seed)
        self.habits = Habits.draw(self.rng)
        self._noise = np.zeros(6)
        self._phases: Sequence[Phase] = ()
        self._index = 0
        self._steps = 0
        scale = np.array(env.action_convention["controller"]["output_max"])
        self._metres, self._radians = scale[0], scale[3]

    @abstractmethod
    def plan(self) -> Sequence[Phase]:
        """The phases of this episode; called once, in its first state."""

    @property
    def done(self) -> bool:
        """Whether the task has been solved for long enough to end the demonstration."""
        return self.env.success_steps > HOLD_STEPS

    @property
    def phase(self) -> str:
        """Name of the phase that gave the last action."""
        return self._phases[self._index].name if self._phases else ""

    def act(self) -> Array:
        """The next action, (7,) float64 in [-1, 1]; call it once a step."""
        if not self._phases:
            self._phases = self.plan()
        phase, target = self._current()
        hand = self.hand()
        move = limit(self.habits.gain * (target.position - hand.position) / self._metres, self.habits.speed)
        error = Rotation.from_matrix(target.rotation @ hand.rotation.T).as_rotvec()
        turn = limit(self.habits.turn_gain * error / self._radians, self.habits.turn)
        if self.env.frame == "base":
            base = controllers(self.env.sim_env)[0].origin_ori
            move, turn = base.T @ move, base.T @ turn
        kick = np.sqrt(1 - NOISE_MEMORY**2) * self.habits.noise * self.rng.standard_normal(6)
        self._noise = NOISE_MEMORY * self._noise + kick
        pose = np.concatenate([move, turn]) + phase.noise * NOISE_SCALE * self._noise
        self._steps += 1
        return np.append(np.clip(pose, -1.0, 1.0), phase.grip)

    def _current(self) -> tuple[Phase, Pose]:
        """The phase to act in and its target, after moving on if the last one has ended."""
        phase = self._phases[self._index]
        target = phase.target()
        while self._index + 1 < len(self._phases) and self._ended(phase, target):
            self._index += 1
            self._steps = 0
            phase = self._phases[self._index]
            target = phase.target()
        return phase, target

    def _ended(self, phase: Phase, target: Pose) -> bool:
        if self._steps < phase.min_steps:
            return False
        if self._steps >= phase.max_steps or phase.tolerance is None:
            return True
        metres, radians = self.hand().distance(target)
        return metres < phase.tolerance[0] and radians < phase.tolerance[1]

    def hand(self, robot: int = 0) -> Pose:
        """Pose of the point between the fingertips, which is what the controller moves.

        Not the observation `eef_quat`: that is the hand's body, turned by 90 degrees against it.
        """
        sim_env = self.env.sim_env
        site = sim_env.robots[robot].eef_site_id["right"]
        data = sim_env.sim.data
        return Pose(np.array(data.site_xpos[site]), np.array(data.site_xmat[site]).reshape(3, 3))

    def body_position(self, name: str) -> Array:
        """Position (3,) of a body of the model, world frame."""
        sim = self.env.sim_env.sim
        return np.array(sim.data.body_xpos[sim.model.body_name2id(name)])

    def body_rotation(self, name: str) -> Array:
        """Rotation matrix (3, 3) of a body of the model, world frame."""
        sim = self.env.sim_env.sim
        return np.array(sim.data.body_xmat[sim.model.body_name2id(name)]).reshape(3, 3)
