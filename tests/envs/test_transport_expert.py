"""The scripted Transport expert: two arms that hand a hammer over, in one of several ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.experts.common import HOLD_STEPS
from envs.experts.phases import OPEN
from tests.envs.helpers import demonstration
from tests.envs.strategies import opposite, planned

SEED = 3100
WAYS = {
    "lid path": {"near", "far"},
    "lid approach": {"straight", "corrected"},
    "hammer approach": {"straight", "corrected"},
    "trash path": {"near", "far"},
    "trash grasp": {"nearer faces", "farther faces"},
    "order": {"together", "lid first"},
}


@pytest.fixture
def transport(make):
    """Transport as demonstrations are recorded in it, in the first state of an episode."""
    env = make("Transport", terminate_on_success=False)
    env.reset(seed=SEED)
    return env


@pytest.fixture
def plans(transport):
    """Experts of many seeds in one state, with the phases of both arms; nothing is simulated."""
    return planned(transport, range(40))


@pytest.fixture(scope="module")
def demo(make):
    """An episode of a seed that nothing was tuned on."""
    return demonstration(make("Transport", terminate_on_success=False), SEED)


def targets(phases: Any, name: str) -> list[np.ndarray]:
    """Target of the named phase, as one vector; none if the plan has no such phase."""
    poses = [phase.target() for phase in phases if phase.name == name]
    return [np.append(pose.position, pose.rotation) for pose in poses]


def head_points_to_the_taker(env: Any, seed: int) -> bool:
    """Which of two ways the hammer lies in the first state of a seed; the taker stands where y is positive."""
    env.reset(seed=seed)
    return bool(env.unwrapped.sim_env.sim.data.get_body_xmat("payload_root")[1, 2] > 0)


def steady(env: Any, seed: int) -> Any:
    """The expert of a seed without its noise, which is added to the numbers of an action whatever they mean."""
    expert = env.unwrapped.make_expert(seed)
    expert.habits = replace(expert.habits, noise=0.0)
    return expert


def assert_succeeds_and_goes_on(demo: dict[str, np.ndarray]) -> None:
    assert demo["success"][-HOLD_STEPS - 2 :].tolist() == [False] + [True] * (HOLD_STEPS + 1)
    assert 250 < len(demo["actions"]) < 600


def test_expert_succeeds_on_a_fresh_seed_and_goes_on_for_a_while(demo):
    assert_succeeds_and_goes_on(demo)


def test_expert_succeeds_by_all_other_ways(transport):
    """The hammer's head points to the other side, too, which no expert chooses."""
    side = head_points_to_the_taker(transport, SEED)
    seed = next(seed for seed in range(SEED + 1, SEED + 40) if head_points_to_the_taker(transport, seed) != side)
    expert_seed = opposite(transport, SEED, range(SEED + 1, SEED + 1000))
    assert_succeeds_and_goes_on(demonstration(transport, seed, expert_seed))


def test_every_way_occurs_about_as_often_as_the_other(plans):
    for choice, ways in WAYS.items():
        drawn = [expert.strategy[choice] for expert, _ in plans]
        assert set(drawn) == ways
        # of 40 fair draws fewer than 8 of one kind come up once in 10 000 choices
        assert all(drawn.count(way) >= 8 for way in ways)
    assert all(expert.strategy.keys() == WAYS.keys() for expert, _ in plans)


@pytest.mark.parametrize(("choice", "arm", "name"), [("lid path", 0, "carry lid"), ("trash path", 1, "carry trash")])
def test_paths_lie_apart(plans, choice, arm, name):
    """By more than the draws within one path differ."""
    y: dict[str, list[float]] = {way: [] for way in WAYS[choice]}
    for expert, phases in plans:
        y[expert.strategy[choice]].append(abs(targets(phases[arm], name)[0][1]))
    assert min(y["near"]) > max(y["far"]) + 0.05


@pytest.mark.parametrize(("choice", "goal"), [("lid approach", "above lid"), ("hammer approach", "above hammer")])
def test_corrected_approach_first_misses_its_goal_by_some_centimetres(plans, choice, goal):
    for expert, (giver, _) in plans:
        beyond = targets(giver, f"beyond, {choice}")
        assert len(beyond) == (expert.strategy[choice] == "corrected")
        for missed in beyond:
            assert 0.03 < np.linalg.norm((missed - targets(giver, goal)[0])[:3]) < 0.07


def test_trash_is_grasped_on_either_pair_of_faces(plans):
    """The fingers close along an axis of the cube, by at most 45 degrees from where they are, or by more."""
    cube = plans[0][0].body_rotation("trash_main")
    for expert, (_, taker) in plans:
        closing = targets(taker, "down to trash")[0][3:].reshape(3, 3)[:, 0]
        # the hand is tilted by a degree or two
        assert np.abs(cube.T @ closing).max() > np.cos(np.deg2rad(10))
        assert (abs(closing[0]) > np.sqrt(0.5)) == (expert.strategy["trash grasp"] == "nearer faces")


@pytest.mark.parametrize(("arm", "item"), [(0, "lid"), (0, "hammer"), (1, "trash")])
def test_pauses_before_the_grasps_are_drawn(plans, arm, item):
    """From none to three steps, over the object, with open fingers."""
    pauses = set()
    for _, phases in plans:
        [down], [wait] = ([p for p in phases[arm] if p.name == f"{word} {item}"] for word in ("down to", "wait at"))
        assert phases[arm].index(wait) == phases[arm].index(down) + 1
        assert (wait.grip, wait.min_steps) == (OPEN, wait.max_steps)
        np.testing.assert_array_equal(wait.target().position, down.target().position)
        pauses.add(wait.max_steps)
    assert pauses == {0, 1, 2, 3}


def test_the_taker_begins_at_once_or_looks_on(transport):
    speed: dict[str, list[float]] = {way: [] for way in WAYS["order"]}
    for seed in range(12):
        expert = steady(transport, seed)
        action = expert.act()
        speed[expert.strategy["order"]].append(np.abs(action[7:13]).max())
        assert np.abs(action[:6]).max() > 0.5
    assert min(speed["together"]) > 0.5
    assert max(speed["lid first"]) < 1e-6


def test_actions_are_fixed_by_the_seed(transport, demo):
    expert, other = (transport.unwrapped.make_expert(seed) for seed in (SEED, SEED + 1))
    for action in demo["actions"][:20]:
        np.testing.assert_array_equal(expert.act(), action)
        transport.step(action)
    assert expert.habits != other.habits


def test_the_base_frame_differs_by_the_rotation_of_each_base(make, transport):
    """The bases are turned by a quarter to either side: what is said differs, what is meant does not."""
    turned = make("Transport", terminate_on_success=False, frame="base")
    turned.reset(seed=SEED)
    expert, other = steady(transport, SEED), steady(turned, SEED)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for _ in range(10):
        world, base = expert.act(), other.act()
        for arm, rotation in enumerate((quarter, quarter.T)):
            pose = slice(7 * arm, 7 * arm + 6)
            np.testing.assert_allclose(base[pose].reshape(2, 3) @ rotation.T, world[pose].reshape(2, 3), atol=1e-6)
        assert np.abs(world - base).max() > 0.1
        transport.step(world)
        turned.step(base)
