"""The scripted Square expert: it succeeds, and takes each of several ways, which differ in what it does."""

from __future__ import annotations

import numpy as np
import pytest

from envs.experts.square import AT_NUT, AT_PEG, HANDLE_AT_PEG, turns_in_reach
from tests.envs.helpers import demonstration
from tests.envs.strategies import along, assert_ordered, chosen_actions, left_of, strategies

# in the first of them the nut may be turned either way
FRESH_SEEDS = (7001, 7002)
# the nut lies so that the hand can take it from either side
EITHER_SIDE_SEED = 7012
WAYS = {
    "grasp": {"hand turned left", "hand turned right"},
    "handle": {"to the robot", "to the right"},
    "approach": {"direct", "overshot"},
    "path": {"left", "right"},
}
EXPERT_SEEDS = range(8000, 8024)
TURN = np.eye(7)[5]


@pytest.fixture(scope="module")
def square(make):
    """Square as demonstrations are recorded in it."""
    return make("Square", terminate_on_success=False)


@pytest.fixture(scope="module")
def demos(square):
    """Episodes of seeds that nothing was tuned on."""
    return {seed: demonstration(square, seed) for seed in FRESH_SEEDS}


def test_expert_succeeds_on_fresh_seeds(demos):
    assert all(demo["success"][-1] for demo in demos.values())
    assert all(60 < len(demo["actions"]) < 250 for demo in demos.values())


def test_expert_says_its_strategy_and_takes_every_way(square):
    square.reset(seed=EITHER_SIDE_SEED)
    taken = strategies(square, EXPERT_SEEDS)
    assert {name: {strategy[name] for strategy in taken} for name in WAYS} == WAYS


def test_same_seed_gives_same_actions(square):
    square.reset(seed=0)
    one, other, third = (square.unwrapped.make_expert(seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.act(), other.act())
    assert one.strategy == other.strategy
    assert not np.array_equal(one.act(), third.act())


def test_turns_end_where_they_should_within_reach():
    for nut_yaw in np.linspace(-np.pi, np.pi, 73):
        turns = turns_in_reach(nut_yaw)
        for turn in turns:
            assert AT_NUT[0] <= turn.hand <= AT_NUT[1]
            assert AT_PEG[0] <= turn.hand + turn.nut <= AT_PEG[1]
            # the fingers close across the handle, the nut ends with its handle where it is said to
            assert np.sin(turn.hand - nut_yaw) == pytest.approx(0.0, abs=1e-9)
            assert np.exp(1j * (nut_yaw + turn.nut)) == pytest.approx(np.exp(1j * HANDLE_AT_PEG[turn.handle]))
        assert turns
        assert len({(turn.grasp, turn.handle) for turn in turns}) == len(turns)


def test_grasps_differ_in_the_actions(square):
    chosen = chosen_actions(square, EITHER_SIDE_SEED, "", EXPERT_SEEDS, ("past", "hover"))
    assert_ordered(chosen, "grasp", ("hand turned right", "hand turned left"), TURN)


def test_approaches_differ_in_the_actions(square):
    """Over the nut's handle, who overshoots goes on."""
    _, info = square.reset(seed=EITHER_SIDE_SEED)
    way = along(info["positions"]["nut"] - info["positions"]["gripper"])
    chosen = chosen_actions(square, EITHER_SIDE_SEED, "down", EXPERT_SEEDS, ("past", "down"))
    assert_ordered(chosen, "approach", ("direct", "overshot"), way)


def test_yaws_on_the_peg_differ_in_the_actions(square):
    """With the nut in the hand, it is turned this way or that."""
    chosen = chosen_actions(square, FRESH_SEEDS[0], "lift", EXPERT_SEEDS, ("lift",))
    assert_ordered(chosen, "handle", ("to the right", "to the robot"), TURN)


def test_paths_differ_in_the_actions(square):
    _, info = square.reset(seed=EITHER_SIDE_SEED)
    way = left_of(info["positions"]["peg"] - info["positions"]["nut"])
    chosen = chosen_actions(square, EITHER_SIDE_SEED, "around", EXPERT_SEEDS, ("around",))
    assert_ordered(chosen, "path", ("right", "left"), way)
