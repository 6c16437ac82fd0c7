"""What experts that have drawn different strategies do in one and the same state."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import numpy as np

from envs.experts.phases import Habits, Phase, Track

# the same for all, and without noise: what differs is the plan
HABITS = Habits(speed=1.0, gain=1.0, turn=1.0, turn_gain=1.2, noise=0.0)

Chosen = list[tuple[dict[str, str], np.ndarray]]
Planned = tuple[Any, tuple[list[Phase], ...]]


def planned(env: Any, seeds: Iterable[int]) -> list[Planned]:
    """The experts of `seeds` and their plans, an arm each, in the present state; nothing is simulated."""
    experts = [env.unwrapped.make_expert(seed) for seed in seeds]
    return [(expert, expert.plan()) for expert in experts]


def strategies(env: Any, seeds: Iterable[int]) -> list[dict[str, str]]:
    """What the experts of `seeds` choose in the present state."""
    return [expert.strategy for expert, _ in planned(env, seeds)]


def opposite(env: Any, seed: int, seeds: Iterable[int]) -> int:
    """The first of `seeds` whose expert chooses otherwise than that of `seed` wherever it can, in the present state."""
    [taken] = strategies(env, [seed])
    others = ((other, strategies(env, [other])[0]) for other in seeds)
    return next(other for other, strategy in others if all(strategy[name] != taken[name] for name in taken))


def going_on(plans: Iterable[Planned], first: Container[str]) -> Chosen:
    """Strategy and action (7,) of experts that go on with the first of their phases that is named in `first`."""
    chosen = []
    for expert, (plan, *_) in plans:
        begun = next(i for i, phase in enumerate(plan) if phase.name in first)
        chosen.append((expert.strategy, Track(expert.arms[0], plan[begun:], HABITS, expert.rng).act()))
    return chosen


def chosen_actions(env: Any, seed: int, phase: str, seeds: Iterable[int], first: Container[str]) -> Chosen:
    """Strategy and action (7,) of the experts of `seeds` in the state in which the one of `seed` begins a phase.

    The empty name is the first state, in which all have planned. They go on with the first of their phases that is
    named in `first`. AssertionError if the phase does not begin before the episode ends.
    """
    env.reset(seed=seed)
    plans = planned(env, seeds)
    player = env.unwrapped.make_expert(seed)
    action = player.act()
    truncated = False
    while phase not in ("", player.phase):
        assert not truncated, f"{phase} does not begin within the episode"
        truncated = env.step(action)[3]
        action = player.act()
    return going_on(plans, first)


def assert_ordered(chosen: Chosen, choice: str, ways: Iterable[str], direction: np.ndarray) -> None:
    """Along a direction (7,), the actions of every way exceed all those of the ways before it."""
    largest = -np.inf
    for way in ways:
        numbers = [float(action @ direction) for strategy, action in chosen if strategy[choice] == way]
        assert numbers, f"{choice}: nobody chose {way}"
        assert min(numbers) > largest, f"{choice}: {way} does not differ in the actions"
        largest = max(numbers)


def along(vector: np.ndarray) -> np.ndarray:
    """Direction (7,) of actions that move the hand along the horizontal part of a vector (3,)."""
    return np.concatenate([vector[:2] / np.linalg.norm(vector[:2]), np.zeros(5)])


def left_of(vector: np.ndarray) -> np.ndarray:
    """Direction (7,) of actions that move the hand to the left of a vector (3,), seen from above."""
    return along(np.array([-vector[1], vector[0], 0.0]))
