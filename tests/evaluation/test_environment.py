"""Environments are made, observed and compared; every mistake is one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lfm_policy.evaluation.environment import (
    Described,
    action_dim,
    check_fit,
    env_name,
    horizon,
    is_success,
    make_env,
    observation_dims,
    observe,
)
from lfm_policy.flow.errors import LFMError
from tests.helpers.point import HORIZON, PLAIN, POINT
from tests.helpers.policies import plain_spec, point_spec


def test_an_environment_tells_its_shapes() -> None:
    env = make_env(POINT)
    assert observation_dims(env) == {"goal": 2, "position": 2}
    assert (action_dim(env), horizon(env), env_name(env)) == (2, HORIZON, "Point-v0")
    plain = make_env(PLAIN, {"terminate_on_success": True}, terminate_on_success=False)
    assert observation_dims(plain) == {"state": 4}
    assert plain.unwrapped.terminate_on_success is False  # type: ignore[attr-defined]


def test_observations_are_copies_by_key() -> None:
    vector = np.arange(3.0)
    assert set(observe(vector)) == {"state"}
    seen = observe({"a": vector})["a"]
    vector[0] = 7
    assert seen[0] == 0


@pytest.mark.parametrize(
    ("env_id", "kwargs", "told"),
    [
        ("nowhere/Thing-v0", {}, "nowhere/Thing-v0.*registered: "),
        ("lfm/Lyft-v0", {}, "lfm/Lyft-v0.*registered: lfm/Can-v0, lfm/Lift-v0"),
        ("no_such_module:Thing-v0", {}, "no_such_module"),
        (POINT, {"friction": 3}, "friction"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(env_id: str, kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(LFMError, match=told) as caught:
        make_env(env_id, kwargs)
    assert "\n" not in str(caught.value)


def test_what_fits_passes() -> None:
    check_fit(point_spec(), make_env(POINT), "runs/point")
    check_fit(plain_spec(), make_env(PLAIN), "runs/plain")
    check_fit(point_spec(observation=(("goal", 2),)), make_env(POINT), "a policy need not see everything")
    check_fit(point_spec(env_version=""), make_env(POINT, {"version": "1.4.1"}), "a dataset that tells no version")


def test_every_difference_is_named_with_both_values() -> None:
    action_space = dataclasses.replace(
        point_spec().action_space, frame="base", control_freq=20, controller={"gain": 0.2}, dim=7
    )
    observation = (("position", 3), ("object", 10), ("goal", 2))
    spec = point_spec(observation=observation, action_space=action_space, env_version="1.4.1")
    with pytest.raises(LFMError) as caught:
        check_fit(spec, make_env(POINT), "runs/lift")
    told = str(caught.value)
    assert told.startswith("runs/lift: does not fit environment Point-v0: ")
    for difference in (
        "observation position: checkpoint 3, environment 2;",
        "observation object: checkpoint 10, environment nothing (it has goal 2, position 2);",
        "action frame: checkpoint base, environment world;",
        "action control_freq: checkpoint 20, environment 10;",
        "action controller.gain: checkpoint 0.2, environment 0.1;",
        "action dim: checkpoint 7, environment 2;",
        "simulator version: checkpoint 1.4.1, environment 1.5.2;",
    ):
        assert difference in told
    assert "observation goal" not in told
    assert "\n" not in told


def test_an_environment_that_tells_nothing_is_compared_by_its_spaces() -> None:
    env = make_env(PLAIN)
    with pytest.raises(LFMError, match=r"observation position: checkpoint 2, environment nothing \(it has state 4\)"):
        check_fit(point_spec(), env, "runs/point")
    other = dataclasses.replace(plain_spec().action_space, frame="anything", dim=2)
    check_fit(dataclasses.replace(plain_spec(), action_space=other), env, "runs/plain")


def test_images_and_discrete_actions_are_refused() -> None:
    with pytest.raises(LFMError, match="actions are Discrete"):
        action_dim(gymnasium.make("CartPole-v1"))
    env = make_env(POINT)
    env.unwrapped.observation_space = gymnasium.spaces.Box(0, 1, (3, 8, 8))
    with pytest.raises(LFMError, match="only vectors are understood"):
        observation_dims(env)


@pytest.mark.parametrize(
    ("info", "success"),
    [({"is_success": True}, True), ({"success": np.bool_(True)}, True), ({"is_success": False}, False), ({}, None)],
)
def test_success_is_read_under_both_names(info: dict[str, Any], success: bool | None) -> None:
    assert is_success(info) is success


class LateSeed(gymnasium.Wrapper):
    """Draws before it passes the seed on, as some benchmarks' wrappers choose their task."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        drawn = self.np_random.integers(1 << 30)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "drawn": int(drawn)}


def test_a_seed_decides_what_wrappers_draw_too() -> None:
    env = Described(LateSeed(gymnasium.make(PLAIN)), {})
    drawn = [env.reset(seed=seed)[1]["drawn"] for seed in (3, 4, 3)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_mapping_and_a_success_key_make_an_environment_fit() -> None:
    """Plain-v0, told which columns are what, is Point-v0 under the names of the mapping."""
    mapping = {"goal": "state[2:4]", "position": "state[0:2]"}
    plain, point = make_env(PLAIN, None, mapping, "success"), make_env(POINT)
    assert observation_dims(plain) == {"goal": 2, "position": 2}
    assert plain.observation_space["goal"] == spaces.Box(-10.0, 10.0, (2,), np.float32)  # type: ignore[index]
    for seed in (1, 2):
        seen, expected = plain.reset(seed=seed)[0], point.reset(seed=seed)[0]
        for key in mapping:
            np.testing.assert_allclose(seen[key], expected[key], atol=1e-6)


def test_an_unknown_success_key_names_what_there_is() -> None:
    env = make_env(POINT, success_key="won")
    env.reset(seed=0)
    with pytest.raises(LFMError, match=r"Point-v0: success_key 'won' is not in .*: actions_abs, is_success, positions"):
        env.step(np.zeros(2))


def test_an_episode_that_ends_by_success_needs_no_key() -> None:
    """A cart that reaches its hill ends the episode, and says nothing of success."""
    env = make_env("MountainCarContinuous-v0", None, {"cart": "state"}, "terminated")
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.36, 0.06], dtype=np.float32)  # type: ignore[attr-defined]
    told = [is_success(env.step(np.array([1.0], np.float32))[4]) for _ in range(2)]
    assert told == [False, True]
