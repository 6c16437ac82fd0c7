"""One gymnasium environment for all tasks: robomimic's observations, success test and action conventions."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs import actions, controllers, simulator, state
from envs.numbers import finite
from envs.rendering import FrameRenderer
from envs.tasks import find_task

if TYPE_CHECKING:
    from envs.experts.common import PhasedExpert

# metres; everything observed is a position, a unit quaternion or a flag
OBSERVATION_BOUND = 100.0

Observation = dict[str, Any]


class RobosuiteEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """A robosuite 1.5 task.

    env_name: robosuite's class name, as in a dataset's `env_args`; further keyword arguments: robomimic's
    `env_kwargs` as they stand (renderers and cameras are switched off whatever they say).
    representation, frame: "delta" or "absolute", "world" or "base"; None takes what `controller_configs`
    says, delta and world if there is none. rotation: code of absolute actions, "axis_angle" or "rotation_6d"
    (first two rows of the matrix). terminate_on_success: whether success ends the episode.
    render_size: pixels of a side; camera: default is the task's.

    Observations are float64 arrays by robomimic's keys. Actions per arm: position 3, rotation 3 (6),
    gripper 1 (positive closes); delta in [-1, 1], absolute in metres and radians of the controller's frame.
    The reward is 1 in a successful state, else 0. `info` has `is_success`, `positions` (metres, world) and,
    after a step, `actions_abs`: the action taken as absolute goals in axis-angle form, (7 * arms,).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        env_name: str,
        *,
        representation: str | None = None,
        rotation: str = "axis_angle",
        frame: str | None = None,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_size: int = 256,
        camera: str | None = None,
        **env_kwargs: Any,
    ) -> None:
        self.task = find_task(env_name)
        kwargs = simulator.complete_kwargs(self.task, env_kwargs)
        kwargs["controller_configs"] = controllers.normalise(
            kwargs.get("controller_configs"), self.task.n_arms, representation, frame
        )
        self._kwargs = kwargs
        self._check_choices(rotation, render_mode, render_size)
        self.terminate_on_success = terminate_on_success
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": int(kwargs["control_freq"])}
        self.rotation = rotation
        self.action_space: spaces.Box = actions.action_box(self.representation, rotation, self.task.n_arms)
        self.observation_space = spaces.Dict(
            {
                key: spaces.Box(-OBSERVATION_BOUND, OBSERVATION_BOUND, (dim,), np.float64)
                for key, dim in self.task.observation_dims.items()
            }
        )
        self.sim_env = simulator.build(self.task, copy.deepcopy(kwargs))
        self._renderer = FrameRenderer(render_size, self._check_camera(camera or self.task.camera))
        self._recorder = state.ModelRecorder(self.sim_env)
        self.success_steps = 0
        self._ready = False

    @property
    def representation(self) -> str:
        """Whether actions are "delta" or "absolute"."""
        return str(self._kwargs["controller_configs"]["body_parts"]["right"]["input_type"])

    @property
    def frame(self) -> str:
        """The frame of actions, "world" or "base"."""
        return str(self._kwargs["controller_configs"]["body_parts"]["right"]["input_ref_frame"])

    @property
    def env_args(self) -> dict[str, Any]:
        """robomimic's description of this environment, JSON-able: what a dataset stores."""
        from importlib import metadata

        kwargs = {key: value for key, value in self._kwargs.items() if key != "hard_reset"}
        return {
            "env_name": self.task.env_name,
            "type": 1,
            "env_version": metadata.version("robosuite"),
            "env_kwargs": copy.deepcopy(kwargs),
        }

    @property
    def action_convention(self) -> dict[str, Any]:
        """What an action means here, JSON-able; equal for two environments iff actions act equally."""
        return {
            "representation": self.representation,
            "rotation": self.rotation,
            "frame": self.frame,
            "control_freq": int(self._kwargs["control_freq"]),
            "controller": controllers.convention(self._kwargs["controller_configs"]),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, by seed or from a stored state.

        A seed fixes the episode for given actions, in any process and whatever was run before; None goes on
        with the present generator. options["state"]: a dict as `get_state` gives; nothing is drawn then.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = [key for key in options if key != "state"]
        if unknown:
            raise ValueError(f"reset option {unknown[0]!r} is unknown; the only one is 'state'")
        self._ready = False
        if options.get("state") is not None:
            state.restore_state(self.sim_env, options["state"])
        else:
            state.seed_generator(self.sim_env, int(self.np_random.integers(2**63)))
            self.sim_env.reset()
        state.settle(self.sim_env)
        self._ready = True
        success = self.is_success()
        self.success_steps = int(success)
        return self.observe(), self._info(success)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action, (A,); ValueError if it has another shape or a number that is not finite.

        Delta actions outside [-1, 1] are clipped, as robosuite does.
        """
        if not self._ready:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        command = self._command(action)
        observations, _, _, _ = self.sim_env.step(command)
        success = self.is_success()
        self.success_steps = self.success_steps + 1 if success else 0
        info = self._info(success) | {"actions_abs": self._absolute(command)}
        terminated = success and self.terminate_on_success
        return self._select(observations), float(success), terminated, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The present scene, (size, size, 3) uint8; None unless render_mode is "rgb_array"."""
        return None if self.render_mode is None else self._renderer.frame(self.sim_env)

    def close(self) -> None:
        """Free simulator and renderer; twice does no harm."""
        self._ready = False
        self._renderer.close()
        self.sim_env.close()

    def is_success(self) -> bool:
        """robosuite's own test of the present state."""
        return bool(self.sim_env._check_success())

    def get_state(self) -> dict[str, Any]:
        """The present state for `reset(options={"state": ...})`.

        states (1 + nq + nv,), model_file (XML), initial_joint (7 * arms,), gripper_action (2 * arms,).
        """
        return state.read_state(self.sim_env, self._recorder)

    def set_states(self, states: NDArray[np.float64]) -> None:
        """Show a stored state, (1 + nq + nv,), of the present model: for playback, not to go on from.

        The gripper's ramp and the arm's null-space posture stay those of the last reset.
        """
        state.write_states(self.sim_env, states)
        # else the controllers would still know the arm where it last was
        state.settle(self.sim_env)

    def observe(self) -> Observation:
        """Observations of the present state, all taken at once, as after a reset."""
        return self._select(state.observe(self.sim_env))

    def reward(self) -> float:
        """1 if the present state is successful, else 0."""
        return float(self.is_success())

    def absolute_goals(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """The goals, (7 * arms,) in axis-angle form, that the controllers would get from an action (A,) now.

        What `info["actions_abs"]` would be after a step with it; nothing moves. ValueError as in `step`.
        """
        command = self._command(action)
        state.set_goals(self.sim_env, command)
        return self._absolute(command)

    def make_expert(self, seed: int) -> PhasedExpert:
        """A scripted expert whose habits are drawn from the seed; NoExpert for a task that has none."""
        from envs.experts import make_expert

        return make_expert(self, seed)

    def _check_choices(self, rotation: str, render_mode: str | None, render_size: int) -> None:
        if rotation not in actions.ROTATIONS:
            raise ValueError(f"rotation {rotation!r}: choose from {', '.join(actions.ROTATIONS)}")
        if rotation != "axis_angle" and self.representation == "delta":
            raise ValueError(f"rotation {rotation!r} codes absolute actions; add representation='absolute'")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: choose None or 'rgb_array'")
        if render_size < 1:
            raise ValueError(f"render_size {render_size}: a positive number of pixels expected")

    def _check_camera(self, camera: str) -> str:
        names = self.sim_env.sim.model.camera_names
        if camera not in names:
            raise ValueError(f"camera {camera!r} is not in {self.task.env_id}; cameras: {', '.join(names)}")
        return camera

    def _command(self, action: NDArray[Any]) -> NDArray[np.float64]:
        checked = finite(action, "action", self.action_space.low.size)
        if self.representation == "delta":
            return np.clip(checked, -1.0, 1.0)
        return actions.to_axis_angle(checked, self.rotation, self.task.n_arms)

    def _absolute(self, command: NDArray[np.float64]) -> NDArray[np.float64]:
        """The goals the controllers have just been given; they hold them until the next step."""
        parts = []
        for controller, arm in zip(state.controllers(self.sim_env), np.split(command, self.task.n_arms), strict=True):
            rotvec = Rotation.from_matrix(controller.goal_ori).as_rotvec()
            parts.append(np.concatenate([controller.goal_pos, rotvec, arm[6:]]))
        return np.concatenate(parts)

    def _select(self, observations: dict[str, Any]) -> Observation:
        names = {key: "object-state" if key == "object" else key for key in self.task.observation_dims}
        return {key: np.array(observations[name], dtype=np.float64) for key, name in names.items()}

    def _info(self, success: bool) -> dict[str, Any]:
        data = self.sim_env.sim.data
        read = {"site": data.get_site_xpos, "body": data.get_body_xpos}
        positions = {label: np.array(read[kind](name)) for label, kind, name in self.task.positions}
        return {"is_success": success, "positions": positions}
