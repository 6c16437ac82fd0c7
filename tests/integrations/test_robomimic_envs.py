"""robomimic's own environments, made from the description that a dataset stores, see and do what ours do."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import robomimic.utils.env_utils as env_utils
import robomimic.utils.obs_utils as obs_utils

import lfm_policy.integrations.robomimic  # noqa: F401 - robomimic 0.3's environments do not import without it
from envs import register_envs
from envs.tasks import TASKS
from tests.envs.helpers import random_actions

STEPS = 5


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.env_name)
def test_robomimic_makes_the_same_environment(task: Any) -> None:
    """It restores a state less wholly: arms keep the posture they were made with, which shows in millimetres."""
    register_envs()
    env: Any = gymnasium.make(task.env_id, disable_env_checker=True, terminate_on_success=False).unwrapped
    ours, _ = env.reset(seed=3)
    obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": list(ours), "rgb": []}}])
    theirs = env_utils.create_env_from_metadata(env_meta=env.env_args, render_offscreen=False, use_image_obs=False)
    state = env.get_state()
    seen = theirs.reset_to({"model": state["model_file"], "states": state["states"]})
    assert theirs.action_dimension == env.action_space.shape[0]
    hands = [key for key in ours if key.endswith("eef_pos")]
    assert len(hands) == task.n_arms
    for key in ours.keys() - {"object"}:
        np.testing.assert_allclose(seen[key], ours[key], atol=1e-6)
    moved = 0.0
    for action in random_actions(env, STEPS):
        before = ours
        ours, seen = env.step(action)[0], theirs.step(action)[0]
        for hand in hands:
            np.testing.assert_allclose(seen[hand], ours[hand], atol=5e-3)
            moved += float(np.linalg.norm(ours[hand] - before[hand])) / len(hands)
        assert seen["object"].shape == ours["object"].shape
    # with other controllers or frames hands would be elsewhere
    assert moved > 0.05
    env.close()
