"""Recorded states shown again: what is observed there, and the goals that an action stands for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.helpers import demonstration, flat, random_actions, trajectory


def test_goals_in_recorded_states_are_those_of_the_steps_taken(lift):
    """Exactly: before a step the controllers bring the arm's kinematics up to date, as showing a state does."""
    demo = demonstration(lift, 3)
    env = lift.unwrapped
    lift.reset(seed=3)
    first = env.get_state()
    # anything else in between
    trajectory(lift, random_actions(lift, 5), seed=8)
    hidden = {key: first[key] for key in ("model_file", "initial_joint")}
    lift.reset(options={"state": {"states": demo["states"][0], **hidden}})
    goals = []
    for states, action in zip(demo["states"], demo["actions"], strict=False):
        env.set_states(states)
        goals.append(env.absolute_goals(action))
        np.testing.assert_array_equal(env.get_state()["states"], states)
    np.testing.assert_array_equal(goals, demo["actions_abs"])


@pytest.mark.parametrize("frame", ["world", "base"])
def test_goals_of_two_arms_in_either_frame(make, frame):
    env = make("Transport", terminate_on_success=False, frame=frame)
    env.reset(seed=0)
    inner = env.unwrapped
    first, taken, states = inner.get_state(), [], []
    actions = random_actions(env, 6)
    for action in actions:
        states.append(inner.get_state()["states"])
        taken.append(env.step(action)[4]["actions_abs"])
    env.reset(options={"state": first})
    for state, action, goals in zip(states, actions, taken, strict=True):
        inner.set_states(state)
        np.testing.assert_array_equal(inner.absolute_goals(action), goals)


def test_goals_found_by_replay_lead_to_success_open_loop(make, lift):
    """Without what a recording of another version lacks: model and posture."""
    demo = demonstration(lift, 4)
    lift.reset(options={"state": {"states": demo["states"][0]}})
    goals = []
    for states, action in zip(demo["states"], demo["actions"], strict=False):
        lift.unwrapped.set_states(states)
        goals.append(lift.unwrapped.absolute_goals(action))
    absolute = make("Lift", terminate_on_success=False, representation="absolute")
    absolute.reset(options={"state": {"states": demo["states"][0]}})
    success = [absolute.step(goal)[4]["is_success"] for goal in goals]
    assert success[-1]


def test_goals_in_an_absolute_environment_are_the_action(make):
    env = make("Lift", terminate_on_success=False, representation="absolute")
    env.reset(seed=0)
    action = np.array([-0.1, 0.05, 1.0, 2.2, 2.2, 0.1, 1.0])
    np.testing.assert_allclose(env.unwrapped.absolute_goals(action), action, atol=1e-12)


def test_what_a_shown_state_looks_like_does_not_depend_on_how_it_was_reached(make):
    """The same as from a reset there, and the same twice: relative poses are those of this state."""
    env = make("Can", terminate_on_success=False)
    env.reset(seed=0)
    inner = env.unwrapped
    first = inner.get_state()
    for action in random_actions(env, 6):
        live = env.step(action)[0]
    state = inner.get_state()
    restored, _ = env.reset(options={"state": {key: state[key] for key in ("states", "model_file")}})
    env.reset(options={"state": first})
    inner.set_states(state["states"])
    once, twice = inner.observe(), inner.observe()
    assert once in env.observation_space
    np.testing.assert_array_equal(flat(once), flat(restored))
    np.testing.assert_array_equal(flat(once), flat(twice))
    # steps show the arm a substep of 2 ms earlier
    np.testing.assert_allclose(flat(once), flat(live), atol=2e-2)


def test_rewards_are_those_of_steps(lift):
    demo = demonstration(lift, 3)
    lift.reset(options={"state": {"states": demo["states"][0]}})
    rewards = []
    for states in demo["states"][1:]:
        lift.unwrapped.set_states(states)
        rewards.append(lift.unwrapped.reward())
    np.testing.assert_array_equal(rewards, demo["success"].astype(float))
    assert 0 < sum(rewards) < len(rewards)


def test_wrong_actions_are_named(lift):
    lift.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(6,\); \(7,\) expected"):
        lift.unwrapped.absolute_goals(np.zeros(6))
