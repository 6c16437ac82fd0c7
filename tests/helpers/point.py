"""A point that has to reach a goal in the plane: an environment with all that rollouts and recording ask for.

Importing registers Point-v0, Plain-v0 (a Box observation, no convention), Failing-v0 (its expert often fails),
Broken-v0 (raises in one seed), Faulty-v0 (observes nonsense in some) and Flat-v0 (Point-v0 with its observations
flattened by a wrapper).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

POINT = "tests.helpers.point:Point-v0"
PLAIN = "tests.helpers.point:Plain-v0"
BROKEN = "tests.helpers.point:Broken-v0"
FAILING = "tests.helpers.point:Failing-v0"
FLAT = "tests.helpers.point:Flat-v0"
FAULTY = "tests.helpers.point:Faulty-v0"
BROKEN_SEED = 5
STEP, REACH, HORIZON = 0.1, 0.05, 30


class PointEnv(gymnasium.Env[Any, np.ndarray]):
    """Positions in metres; an action (2,) in [-1, 1] moves the point by up to 0.1 m along each axis.

    With `representation` "absolute" an action is the position to go to, as far as that is within 0.1 m.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        frame: str = "world",
        version: str = "1.5.2",
        has_gl: bool = True,
        representation: str = "delta",
    ) -> None:
        self.terminate_on_success, self.render_mode, self.has_gl = terminate_on_success, render_mode, has_gl
        self.frame, self.version, self.representation = frame, version, representation
        pair = spaces.Box(-10.0, 10.0, (2,), np.float64)
        self.observation_space: spaces.Space = spaces.Dict({"position": pair, "goal": pair})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position, self.goal, self.time = np.zeros(2), np.zeros(2), 0

    @property
    def env_args(self) -> dict[str, Any]:
        return {
            "env_name": "Point",
            "type": 2,
            "env_version": self.version,
            "env_kwargs": {"frame": self.frame},
        }

    @property
    def action_convention(self) -> dict[str, Any]:
        shared = {"representation": self.representation, "rotation": "axis_angle", "control_freq": 10}
        return {**shared, "frame": self.frame, "controller": {"gain": STEP}}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-0.5, 0.5, (2, 2))
        self.time = 0
        if options and "state" in options:
            if "strange" in options["state"].get("model_file", ""):
                raise ValueError("no such model")
            self.set_states(options["state"]["states"])
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if self.representation == "absolute":
            action = (action - self.position) / STEP
        self.position = self.position + STEP * np.clip(action, -1, 1)
        self.time += 1
        info = self._info() | {"actions_abs": self.position.copy()}
        success = self._reached()
        return self._observation(), float(success), success and self.terminate_on_success, False, info

    def _observation(self) -> Any:
        return {"position": self.position.copy(), "goal": self.goal.copy()}

    def _info(self) -> dict[str, Any]:
        return {"is_success": self._reached(), "positions": {"point": self.position.copy(), "goal": self.goal.copy()}}

    def _reached(self) -> bool:
        return bool(np.linalg.norm(self.position - self.goal) < REACH)

    def render(self) -> Any:
        if not self.has_gl:
            raise RuntimeError("no OpenGL; apt install libegl1")
        frame = np.full((32, 32, 3), 255, np.uint8)
        column, row = np.clip(16 + 16 * self.position, 0, 31).astype(int)
        frame[row, column] = 0
        return frame

    def set_states(self, states: np.ndarray) -> None:
        self.time, self.position, self.goal = int(states[0]), np.array(states[1:3]), np.array(states[3:5])

    def observe(self) -> Any:
        return self._observation()

    def reward(self) -> float:
        return float(self._reached())

    def is_success(self) -> bool:
        return self._reached()

    def absolute_goals(self, action: np.ndarray) -> np.ndarray:
        return self.position + STEP * np.clip(np.asarray(action, np.float64), -1, 1)

    def get_state(self) -> dict[str, Any]:
        states = np.array([self.time, *self.position, *self.goal])
        return {"states": states, "model_file": "<point/>", "initial_joint": self.position.copy()}

    def make_expert(self, seed: int) -> PointExpert:
        return PointExpert(self, lazy=False)


class PointExpert:
    """Goes to the goal and stays there for three steps; a lazy one stays where it is."""

    def __init__(self, env: PointEnv, lazy: bool) -> None:
        self.env, self.lazy, self.held = env, lazy, 0

    @property
    def done(self) -> bool:
        return self.held >= 3

    def act(self) -> np.ndarray:
        error = self.env.goal - self.env.position
        self.held += int(np.linalg.norm(error) < REACH)
        return np.zeros(2) if self.lazy else np.clip(0.5 * error / STEP, -1, 1)


def outside_expert(env: Any, seed: int) -> PointExpert:
    """An expert that is no part of its environment, as `lfm collect --expert` takes it."""
    return PointExpert(env.unwrapped, lazy=False)


class PlainEnv(PointEnv):
    """The same behind a vector, telling nothing of itself."""

    env_args: Any = None
    action_convention: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Box(-10.0, 10.0, (4,), np.float32)

    def _observation(self) -> Any:
        return np.concatenate([self.position, self.goal]).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"success": self._reached()}


class FailingEnv(PointEnv):
    """Its expert succeeds in every third seed."""

    def make_expert(self, seed: int) -> PointExpert:
        return PointExpert(self, lazy=seed % 3 != 0)


class BrokenEnv(PointEnv):
    """Fails in the first step of one seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self.seed = seed
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.seed == BROKEN_SEED:
            raise FloatingPointError("the simulation exploded")
        return super().step(action)


class FaultyEnv(PointEnv):
    """In seeds 3, 7, 11 … its positions are, as `fault` says, "nan" after the first step or "short" by one number, or
    its expert is "planless"."""

    def __init__(self, fault: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault, self.is_faulty = fault, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self.is_faulty = seed is not None and seed % 4 == 3
        return super().reset(seed=seed, options=options)

    def _observation(self) -> Any:
        observation = super()._observation()
        if self.is_faulty and self.fault == "short":
            observation["position"] = observation["position"][:1]
        elif self.is_faulty and self.fault == "nan" and self.time:
            observation["position"] *= np.nan
        return observation

    def make_expert(self, seed: int) -> PointExpert:
        if self.is_faulty and self.fault == "planless":
            raise ValueError(f"seed {seed} has no plan")
        return super().make_expert(seed)


KINDS: dict[str, Any] = {
    "Point-v0": PointEnv,
    "Plain-v0": PlainEnv,
    "Broken-v0": BrokenEnv,
    "Failing-v0": FailingEnv,
    "Faulty-v0": FaultyEnv,
}
for name, kind in KINDS.items():
    gymnasium.register(name, kind, max_episode_steps=HORIZON)
flatten = FlattenObservation.wrapper_spec()
gymnasium.register("Flat-v0", PointEnv, max_episode_steps=HORIZON, additional_wrappers=(flatten,))
