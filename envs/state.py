"""Reads and restores the whole state of a robosuite environment, the hidden part included.

`states` (time, qpos, qvel) alone does not fix what happens next: the controllers keep a null-space posture
and the gripper a ramp, both outside MuJoCo's state, and the solver starts from its last solution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.numbers import finite

Array = NDArray[np.float64]
STATE_KEYS = ("states", "model_file", "initial_joint", "gripper_action")


class ModelRecorder:
    """Keeps the XML a robosuite environment was last built from, word for word.

    MuJoCo's own dump rounds numbers, and writes whichever model the process compiled last. Asset paths are
    made to begin at `robosuite/`; robosuite's edit_model_xml completes them.
    """

    def __init__(self, env: Any) -> None:
        self._record(env.edit_model_xml(env.model.get_xml()))
        env.set_xml_processor(self._record)

    def _record(self, xml: str) -> str:
        self.xml = re.sub(r'file="[^"]*/(robosuite/models/)', r'file="\1', xml)
        return xml


def controllers(env: Any) -> list[Any]:
    """The arm controllers, one per robot."""
    return [robot.part_controllers["right"] for robot in env.robots]


def read_state(env: Any, recorder: ModelRecorder) -> dict[str, Any]:
    """All that `restore_state` needs to go on from here."""
    ramps = [np.broadcast_to(robot.gripper["right"].current_action, 2) for robot in env.robots]
    return {
        "states": np.array(env.sim.get_state().flatten()),
        "model_file": recorder.xml,
        "initial_joint": np.concatenate([controller.initial_joint for controller in controllers(env)]),
        "gripper_action": np.concatenate(ramps),
    }


def write_states(env: Any, states: Array) -> None:
    """Set time, qpos, qvel and bring all derived quantities up to date; ValueError on values that do not fit."""
    size = 1 + env.sim.model.nq + env.sim.model.nv
    env.sim.set_state_from_flattened(finite(states, "state['states']", size))
    env.sim.forward()


def seed_generator(env: Any, seed: int) -> None:
    """Let the environment's draws begin anew; its samplers hold on to the generator: it is set, not replaced."""
    env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def restore_state(env: Any, state: Mapping[str, Any]) -> None:
    """Bring the environment to a stored state.

    state: "states" (1 + nq + nv,), optionally "model_file" (XML; the current model otherwise),
    "initial_joint" (7 per arm; the joint positions of the state otherwise) and "gripper_action" (2 per arm;
    zero otherwise, as at the start of an episode). ValueError on unknown or missing keys and on values that do
    not fit; the environment then has the model that it was built with.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"reset option 'state': {type(state).__name__} is no dict; give what get_state gives")
    unknown = [key for key in state if key not in STATE_KEYS]
    if unknown or "states" not in state:
        problem = f"unknown key {unknown[0]!r}" if unknown else "'states' is missing"
        raise ValueError(f"reset option 'state': {problem}; keys: {', '.join(STATE_KEYS)}")
    try:
        _restore_model(env, state.get("model_file"))
        write_states(env, state["states"])
        _restore_hidden(env, state)
    except Exception:
        # without a model, or with one that has not been reset to its end, nothing could follow
        seed_generator(env, env.seed)
        env.reset()
        raise


def _restore_model(env: Any, model_file: str | bytes | None) -> None:
    try:
        if model_file is None:
            env.deterministic_reset = True
            env.reset()
        else:
            _load_model(env, model_file)
    finally:
        # robosuite leaves it where loading fails, and would then reset a simulation that it has let go
        env.deterministic_reset = False


def _load_model(env: Any, model_file: str | bytes) -> None:
    xml = model_file.decode() if isinstance(model_file, bytes) else str(model_file)
    try:
        env.reset_from_xml_string(env.edit_model_xml(xml))
    # ParseError, AttributeError, KeyError, ValueError, FatalError: it depends on where what is wrong is met
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        remedy = "leave it out to take the environment's own model"
        raise ValueError(f"state['model_file'] does not load: {told}; {remedy}") from error


def _restore_hidden(env: Any, state: Mapping[str, Any]) -> None:
    n_arms = len(env.robots)
    joints = state.get("initial_joint")
    if joints is None:
        joints = np.concatenate([robot._joint_positions for robot in env.robots])
    ramps = state.get("gripper_action")
    ramps = np.zeros(2 * n_arms) if ramps is None else ramps
    joints = finite(joints, "state['initial_joint']", 7 * n_arms)
    ramps = finite(ramps, "state['gripper_action']", 2 * n_arms)
    for robot, ramp in zip(env.robots, np.split(ramps, n_arms), strict=True):
        robot.gripper["right"].current_action = ramp.copy()
    for controller, joint in zip(controllers(env), np.split(joints, n_arms), strict=True):
        controller.initial_joint = joint.copy()


def settle(env: Any) -> None:
    """Make what follows a function of the state alone, however it was reached.

    The constraint solver starts from its last solution and the controllers from their last reading of the
    arm; both are renewed here.
    """
    env.sim.data.qacc_warmstart[:] = 0
    env.sim.forward()
    for controller in controllers(env):
        controller.update_initial_joints(controller.initial_joint)


def set_goals(env: Any, command: Array) -> None:
    """Give the arm controllers the goals of an action, (7 * arms,), as the first substep of a step does."""
    for robot, arm in zip(env.robots, np.split(command, len(env.robots)), strict=True):
        # where the base is, which goals in its frame are relative to
        robot.composite_controller.update_state()
        robot.part_controllers["right"].set_goal(arm[:6])


def observe(env: Any) -> dict[str, Any]:
    """All observations of the present state.

    The sensors of object poses relative to the gripper read a cache of object poses that is filled after
    them: one reading lags behind, and robosuite's first observation after a reset has zeros there. Two
    readings mend it, but advance the sampling clock, and then every later observation is two substeps old;
    so the clock is put back.
    """
    clock = ("_time_since_last_sample", "_sampled", "_current_delay")
    saved = {name: [getattr(observable, field) for field in clock] for name, observable in env._observables.items()}
    env._update_observables(force=True)
    observations = env._get_observations(force_update=True)
    for name, observable in env._observables.items():
        for field, value in zip(clock, saved[name], strict=True):
            setattr(observable, field, value)
    return dict(observations)
