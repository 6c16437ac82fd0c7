"""What scripted experts share: habits, noise, and one proportional law that plays each arm's phases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from envs.experts.phases import Arm, Habits, Phase, Track
from envs.experts.poses import Array, Pose, carried
from envs.random import EXPERT, named_generator

if TYPE_CHECKING:
    from envs.robosuite_env import RobosuiteEnv

# steps an episode goes on after the first of an unbroken run of successful ones, as in robosuite's own
# collection of human demonstrations
HOLD_STEPS = 10


class NoExpert(ValueError, NotImplementedError):
    """There is no expert for this environment as it was made, whatever the seed."""


class PhasedExpert(ABC):
    """Plays phases one after another; `act` gives the environment's delta action for the present state.

    All draws come from one generator that `seed` names. Subclasses give the phases of every arm, and write into
    `strategy` which of several ways they have chosen, by the name of the choice. NoExpert if the environment takes
    absolute actions.
    """

    def __init__(self, env: RobosuiteEnv, seed: int) -> None:
        if env.representation != "delta":
            raise NoExpert(
                f"{env.task.env_id}: the scripted expert gives delta actions, this environment takes "
                "absolute ones; make it with representation='delta' and take info['actions_abs']"
            )
        self.env = env
        self.rng = named_generator(seed, EXPERT)
        self.habits = self.draw_habits()
        self.strategy: dict[str, str] = {}
        self.arms = [Arm(env, index) for index in range(env.task.n_arms)]
        self._tracks: list[Track] = []

    @abstractmethod
    def plan(self) -> Sequence[Sequence[Phase]]:
        """The phases of this episode, a sequence for each arm; called once, in its first state."""

    def draw_habits(self) -> Habits:
        """The habits of this episode; tasks that ask for others overrule it."""
        return Habits.draw(self.rng)

    def choose(self, name: str, *ways: str) -> str:
        """One of several ways, each as likely as the others; noted in `strategy`."""
        self.strategy[name] = ways[int(self.rng.integers(len(ways)))]
        return self.strategy[name]

    @property
    def done(self) -> bool:
        """Whether the task has been solved for long enough to end the demonstration."""
        return self.env.success_steps > HOLD_STEPS

    @property
    def phase(self) -> str:
        """Name of the phase that gave the last action; of every arm's, joined by a comma."""
        return ", ".join(track.phase.name for track in self._tracks)

    def act(self) -> Array:
        """The next action, (7 * arms,) float64 in [-1, 1]; call it once a step."""
        if not self._tracks:
            plans = zip(self.arms, self.plan(), strict=True)
            self._tracks = [Track(arm, phases, self.habits, self.rng) for arm, phases in plans]
        # every arm judges the state that this step began with
        return np.concatenate([track.act() for track in self._tracks])

    def begun(self, arm: int, phase: str) -> bool:
        """Whether an arm is in the first of its phases of that name, or past it."""
        return self._tracks[arm].begun(phase)

    def steps_in_phase(self, arm: int = 0) -> int:
        """Steps that the present phase of an arm has taken: 0 while its first action is decided."""
        return self._tracks[arm].steps

    def hand(self, arm: int = 0) -> Pose:
        """Pose of the point between an arm's fingertips."""
        return self.arms[arm].hand()

    def pose(self, body: str) -> Pose:
        """Pose of a body of the model, world frame."""
        return Pose(self.body_position(body), self.body_rotation(body))

    def body_position(self, name: str) -> Array:
        """Position (3,) of a body of the model, world frame."""
        return np.array(self._data.get_body_xpos(name))

    def body_rotation(self, name: str) -> Array:
        """Rotation matrix (3, 3) of a body of the model, world frame."""
        return np.array(self._data.get_body_xmat(name))

    def site_position(self, name: str) -> Array:
        """Position (3,) of a site of the model, world frame."""
        return np.array(self._data.get_site_xpos(name))

    def geom_position(self, name: str) -> Array:
        """Position (3,) of a geom of the model, world frame."""
        return np.array(self._data.get_geom_xpos(name))

    def carrying(self, body: str, goal: Pose, arm: int = 0) -> Pose:
        """The hand's pose that brings a held body to `goal`, whatever way it has slipped in the grip."""
        return carried(self.hand(arm), self.pose(body), goal)

    def hover(self, low: float, high: float) -> Array:
        """Vector (3,) from an object to where the hand stops above it: a drawn height, about a centimetre aside."""
        return np.array([*self.rng.normal(0.0, 0.012, 2), self.rng.uniform(low, high)])

    def tilt(self, degrees: float) -> Array:
        """A small rotation (3, 3) about a drawn horizontal axis, of `degrees` standard deviation on each."""
        return Rotation.from_rotvec(np.append(self.rng.normal(0.0, np.deg2rad(degrees), 2), 0.0)).as_matrix()

    @property
    def _data(self) -> Any:
        """The state of the simulator; what it gives are views that the next step changes."""
        return self.env.sim_env.sim.data
