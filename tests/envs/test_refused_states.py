"""A state that is refused is named in one line, and leaves an environment that is as good as a new one."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from tests.envs.helpers import random_actions, trajectory

BOX_WITHOUT_SIZE = "<mujoco><asset/><worldbody><geom type='box'/></worldbody></mujoco>"
MODELS = {
    "nothing": "",
    "no XML": "<mujoco",
    "no assets": b"<mujoco/>",
    "does not compile": BOX_WITHOUT_SIZE,
    "no robot": "<mujoco><asset/><worldbody/></mujoco>",
}
REFUSED = {
    **{
        name: ({"model_file": model}, r"state\['model_file'\] does not load: .+; leave it out")
        for name, model in MODELS.items()
    },
    "states of another model": ({"states": np.zeros(5)}, r"state\['states'\]: shape \(5,\)"),
    "states with a NaN": ({"states": np.full(32, np.nan)}, r"state\['states'\]\[0\] is nan; a finite number"),
    "states that are no numbers": ({"states": "all"}, r"state\['states'\]: no numbers"),
    "posture of another robot": ({"initial_joint": np.zeros(6)}, r"state\['initial_joint'\]: shape \(6,\)"),
    "posture with an infinity": ({"initial_joint": np.full(7, np.inf)}, r"state\['initial_joint'\]\[0\] is inf"),
    "ramp with a NaN": ({"gripper_action": [0, np.nan]}, r"state\['gripper_action'\]\[1\] is nan"),
}


@pytest.fixture(scope="module")
def as_new():
    """States, actions, and what follows in an environment in which nothing has happened yet."""
    fresh = gymnasium.make("lfm/Lift-v0", disable_env_checker=True, terminate_on_success=False)
    actions, states = random_actions(fresh, 5), fresh.unwrapped.get_state()["states"]
    return states, actions, trajectory(fresh, actions, options={"state": {"states": states}})


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_state_leaves_an_environment_as_it_was_built(lift, as_new, what):
    """Bit by bit, by a state and by a seed, although another model was loaded before."""
    states, actions, expected = as_new
    wrong, message = REFUSED[what]
    by_seed = trajectory(lift, actions, seed=5)
    with pytest.raises(ValueError, match=message) as caught:
        lift.reset(options={"state": {"states": states, **wrong}})
    assert "\n" not in str(caught.value)
    with pytest.raises(gymnasium.error.ResetNeeded):
        lift.unwrapped.step(actions[0])
    for found, there in zip(trajectory(lift, actions, options={"state": {"states": states}}), expected, strict=True):
        np.testing.assert_array_equal(found, there)
    for found, there in zip(trajectory(lift, actions, seed=5), by_seed, strict=True):
        np.testing.assert_array_equal(found, there)


def test_the_model_an_environment_was_built_with_is_part_of_its_state(lift, as_new):
    states, actions, expected = as_new
    fresh = gymnasium.make("lfm/Lift-v0", disable_env_checker=True)
    fresh.reset(options={"state": {"states": states}})
    state = {key: fresh.unwrapped.get_state()[key] for key in ("states", "model_file")}
    lift.reset(seed=6)
    for found, there in zip(trajectory(lift, actions, options={"state": state}), expected, strict=True):
        np.testing.assert_array_equal(found, there)
