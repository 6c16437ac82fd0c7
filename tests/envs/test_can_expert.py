"""The scripted Can expert: it succeeds, and takes each of several ways, which differ in what it does."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.helpers import demonstration
from tests.envs.strategies import along, assert_ordered, chosen_actions, left_of, strategies

FRESH_SEEDS = (7000, 7001)
WAYS = {
    "grasp": {"straight", "turned left", "turned right"},
    "approach": {"direct", "overshot"},
    "path": {"left", "right"},
}
EXPERT_SEEDS = range(8000, 8024)
TURN = np.eye(7)[5]


@pytest.fixture(scope="module")
def can(make):
    """Can as demonstrations are recorded in it."""
    return make("Can", terminate_on_success=False)


@pytest.fixture(scope="module")
def demos(can):
    """Episodes of seeds that nothing was tuned on."""
    return {seed: demonstration(can, seed) for seed in FRESH_SEEDS}


def test_expert_succeeds_on_fresh_seeds(demos):
    assert all(demo["success"][-1] for demo in demos.values())
    assert all(60 < len(demo["actions"]) < 250 for demo in demos.values())


def test_expert_says_its_strategy_and_takes_every_way(can):
    can.reset(seed=0)
    taken = strategies(can, EXPERT_SEEDS)
    assert {name: {strategy[name] for strategy in taken} for name in WAYS} == WAYS


def test_same_seed_gives_same_actions(can):
    can.reset(seed=0)
    one, other, third = (can.unwrapped.make_expert(seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.act(), other.act())
    assert one.strategy == other.strategy
    assert not np.array_equal(one.act(), third.act())


def test_grasps_differ_in_the_actions(can):
    chosen = chosen_actions(can, FRESH_SEEDS[0], "", EXPERT_SEEDS, ("past", "hover"))
    assert_ordered(chosen, "grasp", ("turned right", "straight", "turned left"), TURN)


def test_approaches_differ_in_the_actions(can):
    """Over the can, who overshoots goes on."""
    seed = FRESH_SEEDS[0]
    _, info = can.reset(seed=seed)
    way = along(info["positions"]["can"] - info["positions"]["gripper"])
    assert_ordered(
        chosen_actions(can, seed, "down", EXPERT_SEEDS, ("past", "down")), "approach", ("direct", "overshot"), way
    )


def test_paths_differ_in_the_actions(can):
    seed = FRESH_SEEDS[0]
    can_at = can.reset(seed=seed)[1]["positions"]["can"]
    way = left_of(can.unwrapped.sim_env.target_bin_placements[3] - can_at)
    chosen = chosen_actions(can, seed, "around", EXPERT_SEEDS, ("around",))
    assert_ordered(chosen, "path", ("right", "left"), way)
