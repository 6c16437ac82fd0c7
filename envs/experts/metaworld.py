"""Meta-World's own scripted policies as experts: `lfm collect --expert envs.experts.metaworld:make_expert`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.random import EXPERT, named_generator

# steps that the expert goes on after success, so that a policy learns to hold what it has reached
HOLD_STEPS = 5
# standard deviation of the noise on actions of [-1, 1]: the policies alone take one path for each goal
NOISE = 0.15


class MetaWorldExpert:
    """Acts from the last observation (39,) of an environment that keeps it; its noise is drawn from the seed."""

    def __init__(self, env: Any, policy: Any, seed: int) -> None:
        self._env, self._policy = env, policy
        self._noise = named_generator(seed, EXPERT)
        self._held = 0

    @property
    def done(self) -> bool:
        """Whether success has been held for long enough."""
        return self._held >= HOLD_STEPS

    def act(self) -> NDArray[np.float32]:
        """The next action (4,) in [-1, 1]."""
        with warnings.catch_warnings():
            # of gains that leave [-1, 1], which is clipped below
            warnings.simplefilter("ignore")
            action = np.array(self._policy.get_action(self._env.last_observation))
        self._held = self._held + 1 if self._env.last_info.get("success") else 0
        # the gripper is told without noise: it would open and close
        action[:3] += self._noise.normal(0, NOISE, 3)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def make_expert(env: Any, seed: int) -> MetaWorldExpert:
    """The policy that Meta-World ships for this task; ValueError for an environment that is none of its."""
    from metaworld.policies import ENV_POLICY_MAP

    name = env.spec.kwargs.get("env_name") if env.spec is not None else None
    if name not in ENV_POLICY_MAP:
        raise ValueError(f"env_name {name!r} is no Meta-World task; there are {', '.join(sorted(ENV_POLICY_MAP))}")
    policies: dict[str, Any] = ENV_POLICY_MAP
    return MetaWorldExpert(env, policies[name](), seed)
