"""Short recordings of our own environments, to lay out as other versions did."""

from __future__ import annotations

import gymnasium
import pytest

from envs import register_envs
from tests.conversion.layouts import Taken, take


def recorded(name: str, seed: int, steps: int | None = None) -> Taken:
    register_envs()
    env = gymnasium.make(f"lfm/{name}-v0", disable_env_checker=True, terminate_on_success=False)
    try:
        return take(env, seed, steps)
    finally:
        env.close()


@pytest.fixture(scope="session")
def lift() -> Taken:
    """A successful episode of Lift's expert."""
    return recorded("Lift", 1)


@pytest.fixture(scope="session")
def can() -> Taken:
    """Random motions over the bins."""
    return recorded("Can", 0, 15)


@pytest.fixture(scope="session")
def transport() -> Taken:
    """Random motions of two arms, whose bases are turned by a quarter to either side."""
    return recorded("Transport", 0, 8)
