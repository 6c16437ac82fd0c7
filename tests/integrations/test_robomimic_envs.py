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
from envs.state import controllers
from envs.tasks import TASKS
from tests.envs.helpers import random_actions


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
    for key in ours.keys() - {"object"}:
        np.testing.assert_allclose(seen[key], ours[key], atol=1e-6)
    still, action = np.zeros(env.action_space.shape), random_actions(env, 1)[0]
    # its controllers read the arm anew
    ours, seen = env.step(still)[0], theirs.step(still)[0]
    assert seen["object"].shape == ours["object"].shape
    hands = [(ours[f"robot{arm}_eef_pos"], seen[f"robot{arm}_eef_pos"]) for arm in range(task.n_arms)]
    ours, _, _, _, info = env.step(action)
    seen, _, _, _ = theirs.step(action)
    # what the action asked of the controllers: size, frame and kind of displacement, order of arms
    goals = np.split(info["actions_abs"], task.n_arms)
    for (our_hand, their_hand), goal, controller in zip(hands, goals, controllers(theirs.env), strict=True):
        np.testing.assert_allclose(controller.goal_pos - their_hand, goal[:3] - our_hand, atol=5e-4)
    for key in ours.keys() - {"object"}:
        np.testing.assert_allclose(seen[key], ours[key], atol=5e-3)
    env.close()
