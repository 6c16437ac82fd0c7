"""PushT is gym-pusht's: same motion from the same state, by other names, and every state can be shown again."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gym_pusht.envs.pusht import PushTEnv as Simulator
from gymnasium.utils.env_checker import check_env

import envs

STATES = [np.array([120.0, 300.0, 250.0, 220.0, 1.1]), np.array([400.0, 80.0, 150.0, 300.0, 5.9])]


@pytest.fixture
def env() -> Any:
    return gymnasium.make(envs.PUSHT, render_mode="rgb_array", disable_env_checker=True).unwrapped


def simulator_at(state: np.ndarray) -> Simulator:
    """gym-pusht's own environment at rest in a state: the angle first, since turning moves the block."""
    simulator = Simulator(obs_type="environment_state_agent_pos")
    simulator.reset(seed=0)
    simulator.agent.position, simulator.block.angle = tuple(state[:2]), state[4]
    simulator.block.position = tuple(state[2:4])
    return simulator


@pytest.mark.parametrize("state", STATES)
def test_it_moves_as_gym_pusht_does(env: Any, state: np.ndarray) -> None:
    simulator = simulator_at(state)
    env.reset(options={"state": {"states": state}})
    rng = np.random.default_rng(0)
    target = state[2:4]
    for _ in range(40):
        action = np.clip(target + rng.normal(0, 40, 2), 0, 512).astype(np.float32)
        ours, reward, terminated, truncated, info = env.step(action)
        theirs, their_reward, their_end, _, their_info = simulator.step(action.astype(np.float64))
        np.testing.assert_allclose(ours["agent_pos"], theirs["agent_pos"], atol=1e-9)
        np.testing.assert_allclose(ours["keypoints"], theirs["environment_state"], atol=1e-9)
        angle = simulator.block.angle
        np.testing.assert_allclose(ours["block_angle"], [np.cos(angle), np.sin(angle)], atol=1e-9)
        assert (reward, terminated, truncated) == (pytest.approx(their_reward), their_end, False)
        assert info["is_success"] == their_info["is_success"]
        assert env.reward() == pytest.approx(reward)


def test_every_state_can_be_shown(env: Any) -> None:
    env.reset(seed=1)
    for state in STATES:
        env.set_states(state)
        np.testing.assert_allclose(env.get_state()["states"], state, atol=1e-9)
        seen, _ = env.reset(options={"state": {"states": state}})
        np.testing.assert_allclose(np.concatenate([seen["agent_pos"], seen["block_pos"]]), state[:4], atol=1e-9)
    with pytest.raises(ValueError, match=r"states \(agent x, y, block x, y, angle\): shape \(4,\)"):
        env.set_states(np.zeros(4))


def test_the_outline_itself_is_success(env: Any) -> None:
    """The goal is the pose (256, 256, 45 degrees), and covering it wholly gives the highest reward."""
    env.reset(seed=0)
    env.set_states(np.array([50.0, 50.0, 256.0, 256.0, np.pi / 4]))
    assert env.reward() == 1.0
    assert env.is_success()
    env.set_states(np.array([50.0, 50.0, 266.0, 256.0, np.pi / 4]))
    assert not env.is_success()


def test_a_seed_fixes_an_episode_whatever_ran_before(env: Any) -> None:
    def run(seed: int) -> np.ndarray:
        env.reset(seed=seed)
        steps = [env.step(np.array([256, 256])) for _ in range(5)]
        return np.concatenate([[*observation["keypoints"], reward] for observation, reward, *_ in steps])

    first, other, again = run(3), run(4), run(3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_state_fixes_what_follows_whatever_ran_before(env: Any) -> None:
    """In touch with the block, where what the solver remembers of earlier contacts would tell."""
    touching = np.array([200.0, 200.0, 230.0, 215.0, 0.6])

    def run(seed: int) -> np.ndarray:
        env.reset(seed=seed)
        for _ in range(10):
            env.step(env.observe()["block_pos"])
        env.reset(options={"state": {"states": touching}})
        return np.concatenate([env.step(np.array([256, 240]))[0]["keypoints"] for _ in range(5)])

    first = run(0)
    for seed in range(1, 12):
        np.testing.assert_array_equal(run(seed), first)


def test_gymnasiums_own_checks_pass() -> None:
    check_env(gymnasium.make(envs.PUSHT).unwrapped, skip_render_check=True)


def test_frames_show_finger_and_block(env: Any) -> None:
    env.reset(options={"state": {"states": STATES[0]}})
    before = env.render()
    env.set_states(STATES[1])
    assert before.shape == (256, 256, 3)
    assert before.dtype == np.uint8
    assert (before != env.render()).any()


def test_the_first_frame_is_the_same_whatever_ran_before(env: Any) -> None:
    """gym-pusht keeps drawing where the finger was sent last."""
    env.reset(seed=3)
    first = env.render()
    env.reset(seed=4)
    env.step(np.array([400.0, 100.0]))
    env.reset(seed=3)
    np.testing.assert_array_equal(env.render(), first)


@pytest.mark.parametrize(
    ("action", "told"),
    [([np.nan, 0], r"action\[0\] is nan; a finite number"), ([1, 2, 3], r"action: shape \(3,\); \(2,\) expected")],
)
def test_an_impossible_action_is_named(env: Any, action: list[float], told: str) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=told):
        env.step(action)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (5, "int without 'states'"),
        ({}, "dict without 'states'"),
        ({"states": np.full(5, np.nan)}, r"state\['states'\] \(agent x, .*\)\[0\] is nan"),
        ({"states": np.zeros(4)}, r"shape \(4,\); \(5,\) expected"),
    ],
)
def test_an_impossible_state_is_named_and_nothing_goes_on_from_it(env: Any, state: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        env.reset(options={"state": state})
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(2))


def test_a_frame_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="render_size 0: a positive number of pixels"):
        gymnasium.make(envs.PUSHT, render_mode="rgb_array", render_size=0)
