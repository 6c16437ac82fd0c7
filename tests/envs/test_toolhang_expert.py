"""The scripted ToolHang expert: it succeeds, and takes both of two ways at five places, which differ in the actions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from envs.experts.common import HOLD_STEPS
from tests.envs.helpers import demonstration
from tests.envs.strategies import along, assert_ordered, going_on, left_of, opposite, planned, strategies

# nothing was tuned on either
SEED, OPPOSITE_FROM = 7000, 7001
WAYS = {
    "path to frame": ("left", "right"),
    "turn of frame": ("on the way", "before the way"),
    "aim at tube": ("direct", "overshot"),
    "path to tool": ("left", "right"),
    "way to hook": ("from beyond its end", "from over the arm"),
}
# by choice: the phases that begin where it shows, the phases that experts go on with there
SHOWS = {
    "path to frame": (("way to frame",), ("way to frame",)),
    "turn of frame": (("turn frame", "past tube", "above tube"), ("turn frame", "past tube", "above tube")),
    "aim at tube": (("aim at tube",), ("past tube", "above tube")),
    "path to tool": (("way to tool",), ("way to tool",)),
    "way to hook": (("way to hook",), ("way to hook",)),
}
EXPERT_SEEDS = range(8000, 8024)


@pytest.fixture(scope="module")
def toolhang(make):
    """ToolHang as demonstrations are recorded in it."""
    return make("ToolHang", terminate_on_success=False)


@pytest.fixture(scope="module")
def played(toolhang):
    """An episode as its actions and successes, and for every choice where things were and what others would do."""
    _, info = toolhang.reset(seed=SEED)
    player = toolhang.unwrapped.make_expert(SEED)
    others = planned(toolhang, EXPERT_SEEDS)
    episode: dict[str, Any] = {"actions": [], "success": [], "flags": [], "chosen": {}, "positions": {}}
    truncated = False
    while not (player.done or truncated):
        episode["actions"].append(player.act())
        for choice, (begun, first) in SHOWS.items():
            if player.phase in begun and choice not in episode["chosen"]:
                episode["chosen"][choice] = going_on(others, first)
                episode["positions"][choice] = info["positions"]
        observation, _, _, truncated, info = toolhang.step(episode["actions"][-1])
        episode["flags"].append(tuple(observation["object"][42:]))
        episode["success"].append(info["is_success"])
    return episode


def assert_succeeds_and_goes_on(success: Any) -> None:
    """Well within the horizon of 700 steps."""
    assert len(success) < 600
    assert list(success[-HOLD_STEPS - 2 :]) == [False] + [True] * (HOLD_STEPS + 1)


def test_flags_tell_what_is_done(played):
    """The last two columns of `object`: the frame stands in its base, then the tool hangs on it as well."""
    in_order = list(dict.fromkeys(played["flags"]))
    assert in_order[0] == (0.0, 0.0)
    assert in_order[-1] == played["flags"][-1] == (1.0, 1.0)
    assert (1.0, 0.0) in in_order
    assert (0.0, 1.0) not in in_order


def test_expert_succeeds_whatever_way_it_takes(toolhang, played):
    """Two episodes: the second takes the other way wherever there are two."""
    assert_succeeds_and_goes_on(played["success"])
    toolhang.reset(seed=SEED)
    seed = opposite(toolhang, SEED, range(OPPOSITE_FROM, OPPOSITE_FROM + 500))
    assert_succeeds_and_goes_on(demonstration(toolhang, seed)["success"])


def test_expert_says_its_strategy_and_takes_every_way(toolhang):
    toolhang.reset(seed=0)
    taken = defaultdict(set)
    for strategy in strategies(toolhang, EXPERT_SEEDS):
        for name, way in strategy.items():
            taken[name].add(way)
    assert taken == {name: set(ways) for name, ways in WAYS.items()}


def test_actions_are_fixed_by_the_seed(toolhang, played):
    toolhang.reset(seed=SEED)
    expert, other = (toolhang.unwrapped.make_expert(seed) for seed in (SEED, SEED + 1))
    for action in played["actions"][:40]:
        np.testing.assert_array_equal(expert.act(), action)
        toolhang.step(action)
    assert expert.habits != other.habits


def test_paths_differ_in_the_actions(played):
    for item in ("frame", "tool"):
        choice = f"path to {item}"
        positions = played["positions"][choice]
        way = left_of(positions[item] - positions["gripper"])
        assert_ordered(played["chosen"][choice], choice, ("right", "left"), way)


def test_turns_of_the_frame_differ_in_the_actions(played):
    """Who turns it first stays longer where it lay."""
    positions = played["positions"]["turn of frame"]
    way = along(positions["stand"] - positions["frame"])
    assert_ordered(played["chosen"]["turn of frame"], "turn of frame", ("before the way", "on the way"), way)


def test_aims_at_the_tube_differ_in_the_actions(played):
    """Over the tube, who overshoots goes on, away from where the frame lay."""
    lay = played["positions"]["turn of frame"]["frame"]
    way = along(played["positions"]["aim at tube"]["stand"] - lay)
    assert_ordered(played["chosen"]["aim at tube"], "aim at tube", ("direct", "overshot"), way)


def test_ways_to_the_hook_differ_in_the_actions(played):
    """The arm of the frame points away from the robot, along x."""
    assert_ordered(
        played["chosen"]["way to hook"], "way to hook", ("from over the arm", "from beyond its end"), np.eye(7)[0]
    )
