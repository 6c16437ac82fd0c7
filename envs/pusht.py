"""PushT (Chi et al. 2023; the simulation is gym-pusht's): push a T onto its outline with a round finger."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import PUSHT
from envs.numbers import finite

REMEDY = "pip install 'lfm_policy[pusht]'"
# pixels; the table is square
SIDE = 512.0
# finger and block far from each other and from the walls
APART = (50.0, 50.0, 256.0, 300.0, 0.0)
COLUMNS = "agent x, y, block x, y, angle"
KEYS = {"agent_pos": 2, "block_pos": 2, "block_angle": 2, "keypoints": 16}

Observation = dict[str, Any]


class PushTEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """PushT by the keys `agent_pos` (2,), `block_pos` (2,), `block_angle` (2,) and `keypoints` (16,).

    Lengths are pixels, y pointing down. `block_angle` is cosine and sine: the angle itself jumps where a
    turn is complete. `keypoints` are the corners of the T, x and y in turn. An action (2,) is where the finger
    shall go. The reward is the covered part of the outline over 0.95, at most 1; the success, a cover above
    0.95. States are Diffusion Policy's: agent x, y, block x, y, angle in radians.
    render_size: pixels of a side of a frame.
    """

    # told to those who draw positions
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10, "position_unit": "px"}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, render_size: int = 256) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: choose None or 'rgb_array'")
        if render_size < 1:
            raise ValueError(f"render_size {render_size}: a positive number of pixels expected")
        self.render_mode = render_mode
        self._sim = _simulator(render_size)
        self.action_space = spaces.Box(0.0, SIDE, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-2 * SIDE, 2 * SIDE, (dim,), np.float64) for key, dim in KEYS.items()}
        )
        self._ready = False

    @property
    def env_args(self) -> dict[str, Any]:
        """robomimic's description of this environment, JSON-able: what a dataset stores."""
        return {
            "env_name": PUSHT,
            "type": 2,
            "env_version": metadata.version("gym-pusht"),
            "env_kwargs": {},
            "control_freq": self.metadata["render_fps"],
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, by seed or at rest from options["state"]["states"] (5,)."""
        super().reset(seed=seed)
        unknown = [key for key in options or {} if key != "state"]
        if unknown:
            raise ValueError(f"reset option {unknown[0]!r} is unknown; the only one is 'state'")
        self._ready = False
        state = (options or {}).get("state")
        stored = None if state is None else finite(_stored(state), f"state['states'] ({COLUMNS})", 5)
        # gym-pusht goes on drawing where the finger was last sent
        self._sim._last_action = None
        if stored is None:
            self._sim.reset(seed=int(self.np_random.integers(2**31)))
        else:
            # a new simulation takes a step: from where nothing touches, or the solver would remember a contact
            self._sim.reset(options={"reset_to_state": APART})
            self.set_states(stored)
        self._ready = True
        return self.observe(), self._info(self.is_success())

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the finger towards (x, y) for a tenth of a second; beyond the table means its edge."""
        if not self._ready:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        goal = finite(action, "action", 2)
        _, reward, terminated, _, _ = self._sim.step(np.clip(goal, 0.0, SIDE))
        return self.observe(), float(reward), bool(terminated), False, self._info(bool(terminated))

    def render(self) -> NDArray[np.uint8] | None:
        """A frame (render_size, render_size, 3)."""
        return None if self.render_mode is None else np.asarray(self._sim.render(), dtype=np.uint8)

    def close(self) -> None:
        """Nothing is held beyond memory."""
        self._ready = False

    def observe(self) -> Observation:
        """Observations of the present state."""
        state = self._sim.get_obs()
        return {
            "agent_pos": state[:2],
            "block_pos": state[2:4],
            "block_angle": np.array([np.cos(state[4]), np.sin(state[4])]),
            "keypoints": self._sim.get_keypoints(self._sim._block_shapes).ravel().astype(np.float64),
        }

    def reward(self) -> float:
        """The reward of the present state."""
        return float(np.clip(self._sim._get_coverage() / self._sim.success_threshold, 0.0, 1.0))

    def is_success(self) -> bool:
        """Whether the T covers more than 0.95 of its outline now."""
        return bool(self._sim._get_coverage() > self._sim.success_threshold)

    def get_state(self) -> dict[str, Any]:
        """The present state for `reset(options={"state": ...})`; velocities are not part of it."""
        return {"states": np.array(self._sim.get_obs())}

    def set_states(self, states: NDArray[Any]) -> None:
        """Put finger and block, (5,), at rest where a recording says."""
        values = finite(states, f"states ({COLUMNS})", 5)
        self._sim._last_action = None
        agent, block = self._sim.agent, self._sim.block
        agent.position, agent.velocity = tuple(values[:2]), (0.0, 0.0)
        # the angle first: turning moves the block about its centre of mass, and its position with it
        block.angle = float(values[4])
        block.position, block.velocity, block.angular_velocity = tuple(values[2:4]), (0.0, 0.0), 0.0
        for body in (agent, block):
            self._sim.space.reindex_shapes_for_body(body)

    def _info(self, success: bool) -> dict[str, Any]:
        state = self._sim.get_obs()
        # upwards, as pictures of paths are read
        positions = {"agent": state[:2] * [1, -1] + [0, SIDE], "block": state[2:4] * [1, -1] + [0, SIDE]}
        return {"is_success": success, "positions": positions}


def _stored(state: Any) -> Any:
    """The numbers of reset's option "state"; other keys are those of simulators with more to tell."""
    if not isinstance(state, Mapping) or "states" not in state:
        raise ValueError(f"reset option 'state': {type(state).__name__} without 'states'; give what get_state gives")
    return state["states"]


def _simulator(render_size: int) -> Any:
    try:
        from gym_pusht.envs.pusht import PushTEnv as Simulator
        from gym_pusht.envs.pusht import pymunk_to_shapely
    except ImportError as error:
        raise ImportError(f"gym-pusht is not installed ({error}); {REMEDY}") from None

    class OrderedSimulator(Simulator):
        """gym-pusht sums areas in the order of a set, which differs from process to process in the last bits."""

        def _get_coverage(self) -> float:
            goal_body = self.get_goal_pose_body(self.goal_pose)
            goal, block = (pymunk_to_shapely(body, self._block_shapes) for body in (goal_body, self.block))
            return float(goal.intersection(block).area / goal.area)

    return OrderedSimulator(obs_type="state", visualization_width=render_size, visualization_height=render_size)
