"""Environments shared between tests: what ran in one before must not matter, so sharing is itself a test."""

from __future__ import annotations

import ctypes.util
import json
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

from envs import register_envs


@pytest.fixture(scope="session")
def make() -> Any:
    """A function like gymnasium.make that gives the same object for the same arguments."""
    register_envs()
    made: dict[str, gymnasium.Env] = {}

    def make(task: str, **kwargs: Any) -> gymnasium.Env:
        key = json.dumps([task, kwargs], sort_keys=True)
        if key not in made:
            made[key] = gymnasium.make(f"lfm/{task}-v0", disable_env_checker=True, **kwargs)
        return made[key]

    yield make
    for env in made.values():
        env.close()


@pytest.fixture(scope="session")
def has_opengl() -> bool:
    """Whether the machine has a library to render with; where it has one, rendering has to work."""
    return any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa"))


@pytest.fixture
def lift(make: Callable[..., gymnasium.Env]) -> gymnasium.Env:
    """Lift as demonstrations are recorded in it."""
    return make("Lift", terminate_on_success=False)
