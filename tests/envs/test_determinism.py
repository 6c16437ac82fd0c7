"""A seed, or a stored state, fixes the episode: bit by bit, in another process, whatever ran before."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from lfm_policy.evaluation.collect import CollectJob
from lfm_policy.evaluation.environment import EnvSpec
from tests.envs.helpers import random_actions, run, trajectory

FINGERPRINT = """
import gymnasium, envs, hashlib
from tests.envs.helpers import random_actions, run, trajectory
env = gymnasium.make("lfm/Lift-v0", terminate_on_success=False)
observations, states = trajectory(env, random_actions(env, 25), seed=5)
print(hashlib.sha256(observations.tobytes() + states.tobytes()).hexdigest())
"""


def same(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_seed_fixes_the_trajectory_in_another_process(lift):
    observations, states = trajectory(lift, random_actions(lift, 25), seed=5)
    here = hashlib.sha256(observations.tobytes() + states.tobytes()).hexdigest()
    assert run(FINGERPRINT).stdout.strip() == here


@pytest.mark.parametrize("task", ["Lift", "Can"])
def test_seed_fixes_the_trajectory_whatever_ran_before(make, task):
    env = make(task, terminate_on_success=False)
    actions = random_actions(env, 15)
    first = trajectory(env, actions, seed=5)
    state = env.unwrapped.get_state()
    trajectory(env, actions[::-1], seed=6)
    trajectory(env, actions[:3])
    trajectory(env, actions[:3], options={"state": state})
    assert same(trajectory(env, actions, seed=5), first)
    assert not same(trajectory(env, actions, seed=6), first)


@pytest.mark.parametrize("task", ["Lift", "Square"])
def test_a_recording_is_the_same_whatever_was_recorded_before(task):
    """With the expert, through the code that collects."""
    record = CollectJob(EnvSpec(f"lfm/{task}-v0"))()
    first, _, again = record(3), record(7), record(3)
    assert first.success
    assert first.datasets.keys() == again.datasets.keys()
    for group, values in first.datasets.items():
        pairs = {group: (values, again.datasets[group])}
        if isinstance(values, dict):
            pairs = {key: (value, again.datasets[group][key]) for key, value in values.items()}
        for key, (one, other) in pairs.items():
            assert np.array_equal(one, other), f"{group}/{key}"
    record.close()


def test_without_a_seed_the_generator_goes_on(lift):
    def starts() -> list[np.ndarray]:
        return [lift.reset(**reset)[0]["object"] for reset in ({"seed": 9}, {}, {})]

    once = starts()
    assert len({start.tobytes() for start in once}) == 3
    np.testing.assert_array_equal(once, starts())


def test_the_cube_differs_in_size_between_seeds(lift):
    """A soft reset would keep it."""
    sizes = set()
    for seed in range(3):
        lift.reset(seed=seed)
        model = lift.unwrapped.sim_env.sim.model
        sizes.add(tuple(model.geom_size[model.geom_name2id("cube_g0")]))
    assert len(sizes) == 3


@pytest.mark.parametrize("task", ["Lift", "Can", "Square", "Transport", "ToolHang"])
def test_stored_first_state_repeats_the_episode(make, task):
    """Bit by bit, in an environment object that is at something else, with and without the optional parts."""
    env = make(task, terminate_on_success=False)
    actions = random_actions(env, 8)
    first = trajectory(env, actions, seed=5)
    env.reset(seed=5)
    state = env.unwrapped.get_state()
    assert same(trajectory(env, actions, options={"state": state}), first)
    env.reset(seed=6)
    bare = {key: state[key] for key in ("states", "model_file")}
    assert same(trajectory(env, actions, options={"state": bare}), first)
    kept_model = {key: state[key] for key in ("states", "initial_joint")}
    assert same(trajectory(env, actions, options={"state": kept_model}), first)
    assert same(trajectory(env, actions, seed=5), first)


def test_state_stored_in_the_middle_goes_on_as_before(lift):
    """Within 1e-5: the constraint solver's last solution is not part of a state."""
    actions = random_actions(lift, 30)
    _, states = trajectory(lift, actions[:12], seed=5)
    state = lift.unwrapped.get_state()
    _, rest = trajectory(lift, actions[12:], seed=5, options={"state": state})
    _, whole = trajectory(lift, actions, seed=5)
    np.testing.assert_array_equal(states, whole[:13])
    np.testing.assert_allclose(rest, whole[12:], atol=1e-5)


def test_state_with_mujocos_own_model_dump_repeats_the_episode(lift):
    """Published datasets hold the dump, which rounds the model's numbers: 6e-6 after 30 steps here."""
    actions = random_actions(lift, 30)
    _, states = trajectory(lift, actions, seed=5)
    lift.reset(seed=5)
    dump = lift.unwrapped.sim_env.sim.model.get_xml()
    assert dump != lift.unwrapped.get_state()["model_file"]
    stored = {"states": states[0], "model_file": dump}
    np.testing.assert_allclose(trajectory(lift, actions, options={"state": stored})[1], states, atol=1e-4)


def test_stored_model_names_no_folder_of_this_machine(lift):
    lift.reset(seed=0)
    model_file = lift.unwrapped.get_state()["model_file"]
    assert 'file="robosuite/models/' in model_file
    assert 'file="/' not in model_file


def test_set_states_shows_a_state(lift):
    lift.reset(seed=0)
    states = lift.unwrapped.get_state()["states"]
    cube_height = 1 + 7 + 2 + 2  # time, arm, fingers, x and y of the cube
    raised = states.copy()
    raised[cube_height] += 0.1
    assert not lift.unwrapped.is_success()
    lift.unwrapped.set_states(raised)
    assert lift.unwrapped.is_success()
    np.testing.assert_array_equal(lift.unwrapped.get_state()["states"], raised)
