"""Experts draw from a stream of their own: the environment's tells where things are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.seeding import np_random

from envs.experts import EXPERTS
from envs.experts.metaworld import NOISE, MetaWorldExpert
from envs.random import EXPERT, named_generator

SEEDS = (0, 1, 100_000, 2**40)
# what an expert reads of its environment before it plans
CONVENTION = {"controller": {"output_max": [0.05] * 6}}
ENV: Any = SimpleNamespace(representation="delta", action_convention=CONVENTION, task=SimpleNamespace(n_arms=1))


def same_start(left: np.random.Generator, right: np.random.Generator) -> bool:
    return bool((left.random(4) == right.random(4)).all())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", EXPERTS)
def test_an_experts_draws_are_not_those_of_the_environment_it_acts_in(task, seed):
    """Neither of the environment of its seed nor of any other that is tested here."""
    expert, again = (EXPERTS[task](ENV, seed) for _ in range(2))
    assert expert.habits == again.habits
    for other in SEEDS:
        expert.rng = np_random(other)[0]
        assert expert.draw_habits() != expert.habits


def test_noise_on_meta_worlds_policies_is_not_drawn_from_its_environment():
    env: Any = SimpleNamespace(last_observation=np.zeros(39), last_info={})
    policy: Any = SimpleNamespace(get_action=lambda observation: np.zeros(4))
    for seed in SEEDS:
        first = MetaWorldExpert(env, policy, seed).act()
        np.testing.assert_array_equal(first, MetaWorldExpert(env, policy, seed).act())
        assert not np.allclose(first[:3], np_random(seed)[0].normal(0, NOISE, 3))


def test_streams_differ_by_seed_and_by_purpose():
    streams = [(seed, purpose) for seed in SEEDS for purpose in (EXPERT, "task")]
    for one in streams:
        for other in streams:
            assert same_start(named_generator(*one), named_generator(*other)) == (one == other)
        assert not same_start(named_generator(*one), np_random(one[0])[0])
