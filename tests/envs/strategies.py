"""What experts that have drawn different strategies do in one and the same state."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import numpy as np

from envs.experts.phases import Habits, Track

# the same for all, and without noise: what differs is the plan
HABITS = Habits(speed=1.0, gain=1.0, turn=1.0, turn_gain=1.2, noise=0.0)

Chosen = list[tuple[dict[str, str], np.ndarray]]


def chosen_actions(env: Any, seed: int, phase: str, seeds: Iterable[int], first: Container[str]) -> Chosen:
    """Strategy and action (7,) of the experts of `seeds` in the state in which the one of `seed` begins a phase.

    The empty name is the first state, in which all have planned. They go on with the first of their phases that is
    named in `first`.
    """
    env.reset(seed=seed)
    experts = [env.unwrapped.make_expert(s) for s in seeds]
    plans = [expert.plan()[0] for expert in experts]
    player = env.unwrapped.make_expert(seed)
    action = player.act()
    while phase not in ("", player.phase):
        env.step(action)
        action = player.act()
    chosen = []
    for expert, plan in zip(experts, plans, strict=True):
        begun = next(i for i, other in enumerate(plan) if other.name in first)
        chosen.append((expert.strategy, Track(expert.arms[0], plan[begun:], HABITS, expert.rng).act()))
    return chosen


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
