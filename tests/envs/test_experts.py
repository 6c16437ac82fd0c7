"""The scripted Lift expert: it succeeds, varies by seed, and repeats itself for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from envs.experts import EXPERTS
from envs.experts.common import HOLD_STEPS
from tests.envs.helpers import demonstration


@pytest.fixture(scope="module")
def demos(make):
    """Episodes of seeds that nothing was tuned on."""
    env = make("Lift", terminate_on_success=False)
    return {seed: demonstration(env, seed) for seed in range(3000, 3006)}


def test_expert_succeeds_on_fresh_seeds(demos):
    assert all(demo["success"][-1] for demo in demos.values())
    assert all(25 < len(demo["actions"]) < 100 for demo in demos.values())


def test_expert_is_fixed_by_its_seed_and_varies_with_it(demos, lift):
    seed = next(iter(demos))
    np.testing.assert_array_equal(demonstration(lift, seed)["actions"], demos[seed]["actions"])
    lift.reset(seed=seed)
    one, other = (lift.unwrapped.make_expert(s) for s in (seed, seed + 1))
    assert one.habits != other.habits
    assert not np.array_equal(one.act(), other.act())


def test_demonstration_goes_on_for_a_while_after_success(demos):
    """It ends ten steps after the first of an unbroken run of successful ones."""
    for demo in demos.values():
        assert demo["success"][-HOLD_STEPS - 2 :].tolist() == [False] + [True] * (HOLD_STEPS + 1)


def test_expert_refuses_what_it_cannot_do(make, monkeypatch):
    absolute = make("Lift", terminate_on_success=False, representation="absolute")
    with pytest.raises(ValueError, match="make it with representation='delta'"):
        absolute.unwrapped.make_expert(0)
    monkeypatch.delitem(EXPERTS, "Can")
    with pytest.raises(ValueError, match=r"Can-v0: no scripted expert; tasks that have one: Lift, Square"):
        make("Can", terminate_on_success=False).unwrapped.make_expert(0)
