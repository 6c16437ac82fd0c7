"""A row is a function of policy, environment and seed: not of processes, order, or what ran before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from lfm_policy.evaluation.environment import EnvSpec, make_env
from lfm_policy.evaluation.episode import Row, reproducible, run_episode
from lfm_policy.evaluation.rollout import CheckpointSource, Evaluation, evaluate, evaluate_policy
from lfm_policy.evaluation.statistics import wilson
from lfm_policy.flow.errors import LFMError
from tests.helpers.point import BROKEN, BROKEN_SEED, HORIZON, PLAIN, POINT
from tests.helpers.policies import ProportionalPolicy, noisy, plain_spec, point_checkpoint, point_spec

SEEDS = range(100_000, 100_012)


def rows(evaluation: Evaluation) -> list[Row]:
    return [reproducible(row) for row in evaluation.episodes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return point_checkpoint(tmp_path_factory.mktemp("run"))


def test_a_row_says_what_happened() -> None:
    episode = run_episode(ProportionalPolicy(), make_env(POINT), 100_000)
    row = episode.row
    keys = "seed success steps return max_reward chunks nfe policy_seconds env_seconds"
    assert list(row) == keys.split()
    assert (row["seed"], row["success"], row["return"], row["max_reward"]) == (100_000, True, 1.0, 1.0)
    assert row["chunks"] == -(-row["steps"] // 2) == len(episode.latencies)
    assert row["nfe"] == 3 * row["chunks"]
    assert 0 < sum(episode.latencies) < row["policy_seconds"]
    assert episode.trajectory is None


def test_rows_do_not_depend_on_the_number_of_processes() -> None:
    policy = noisy()
    alone = evaluate_policy(policy, SEEDS)
    assert 0 < alone.summary["success_rate"] < 1, "both outcomes occur, or this proves little"
    assert rows(alone) == rows(evaluate_policy(policy, SEEDS, n_procs=2))


def test_rows_do_not_depend_on_what_ran_before() -> None:
    forwards, backwards = evaluate_policy(noisy(), SEEDS), evaluate_policy(noisy(), SEEDS[::-1])
    assert rows(forwards) == rows(backwards)[::-1]
    assert rows(evaluate_policy(noisy(), SEEDS[5:6])) == rows(forwards)[5:6]


def test_a_checkpoint_gives_the_same_rows_from_two_processes(checkpoint: Path) -> None:
    one, two = (evaluate(checkpoint, 4, n_procs=n_procs, max_steps=6) for n_procs in (1, 2))
    assert rows(one) == rows(two)
    assert [row["seed"] for row in rows(one)] == list(range(100_000, 100_004))


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        evaluate_policy(ProportionalPolicy(), SEEDS[:1])
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_success_at_any_step_counts_and_ends_the_episode_if_told() -> None:
    env = make_env(POINT, terminate_on_success=False)
    ended = run_episode(ProportionalPolicy(), env, 100_000).row
    whole = run_episode(ProportionalPolicy(), env, 100_000, terminate_on_success=False).row
    assert ended["success"]
    assert whole["success"]
    assert (whole["steps"], ended["return"]) == (HORIZON, 1.0)
    assert whole["return"] == HORIZON - ended["steps"] + 1


@pytest.mark.parametrize("max_steps", [2, HORIZON + 10])
def test_max_steps_moves_the_time_limit_both_ways(max_steps: int) -> None:
    still = ProportionalPolicy(point_spec(env_kwargs={"terminate_on_success": False}))
    still.predict_action = lambda obs, generator=None: torch.zeros(1, 4, 2)  # type: ignore[method-assign]
    assert evaluate_policy(still, SEEDS[:1], max_steps=max_steps).episodes[0]["steps"] == max_steps


def test_an_environment_without_limit_needs_one() -> None:
    with pytest.raises(LFMError, match="no step limit; give --max_steps"):
        run_episode(ProportionalPolicy(), make_env(POINT, max_episode_steps=-1), 0)


def test_an_environment_that_tells_no_success_needs_a_key() -> None:
    """A rate of 0 would be nonsense."""

    class Silent(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            *rest, _ = self.env.step(action)
            return *rest, {}

    with pytest.raises(LFMError, match=r"told no success in an episode .* --success_key"):
        run_episode(ProportionalPolicy(), Silent(make_env(POINT)), 0)


def test_positions_and_actions_are_recorded_when_asked() -> None:
    evaluation = evaluate_policy(ProportionalPolicy(), SEEDS, n_recorded=2)
    assert list(evaluation.trajectories) == list(SEEDS[:2])
    trajectory, steps = evaluation.trajectories[SEEDS[1]], evaluation.episodes[1]["steps"]
    assert trajectory.actions.shape == (steps, 2)
    points = trajectory.positions["point"]
    assert points.shape == (steps + 1, 2)
    moved = points[0] + 0.1 * np.clip(trajectory.actions, -1, 1).cumsum(0)
    np.testing.assert_allclose(points[1:], moved, atol=1e-6)


def test_an_environment_of_vectors_without_convention_will_do() -> None:
    evaluation = evaluate_policy(ProportionalPolicy(plain_spec()), SEEDS[:3])
    assert evaluation.summary["success_rate"] == 1
    assert evaluation.context["env_id"] == PLAIN


def test_the_environment_can_be_overruled_and_must_fit() -> None:
    with pytest.raises(LFMError, match="frame: checkpoint world, environment base"):
        evaluate_policy(ProportionalPolicy(), SEEDS, env=EnvSpec(env_kwargs={"frame": "base"}))
    with pytest.raises(LFMError, match="the policy: does not fit environment Plain-v0"):
        evaluate_policy(ProportionalPolicy(), SEEDS, env=EnvSpec(PLAIN))
    with pytest.raises(LFMError, match="names no environment; give --env_id"):
        evaluate_policy(ProportionalPolicy(point_spec(env_id="")), SEEDS)


def test_a_failing_episode_names_its_seed() -> None:
    with pytest.raises(LFMError) as caught:
        evaluate_policy(ProportionalPolicy(), range(BROKEN_SEED - 1, BROKEN_SEED + 3), env=EnvSpec(BROKEN))
    assert str(caught.value) == f"seed {BROKEN_SEED}: FloatingPointError: the simulation exploded"


def test_an_action_that_is_not_finite_is_told() -> None:
    policy = ProportionalPolicy(noise=float("nan"))
    with pytest.raises(LFMError, match="seed 7: the policy's action is nan at step 0, dimension 0"):
        run_episode(policy, make_env(POINT), 7)


def test_a_reward_that_is_not_finite_is_told() -> None:
    env = gymnasium.wrappers.TransformReward(make_env(POINT), lambda reward: float("nan"))
    with pytest.raises(LFMError, match="seed 7: the environment's reward is nan at step 0; its simulation broke"):
        run_episode(ProportionalPolicy(), env, 7)


def test_what_is_given_of_an_environment_overrules_the_checkpoints_own() -> None:
    own = EnvSpec("x", {"a": 1, "b": 1}, {"k": "state[0]"}, "done")
    assert EnvSpec(env_kwargs={"a": 2}).over(own) == EnvSpec("x", {"a": 2, "b": 1}, {"k": "state[0]"}, "done")
    assert EnvSpec("y").over(own) == EnvSpec("y")


def test_the_report_holds_what_is_needed_to_repeat_it(checkpoint: Path) -> None:
    report = json.loads(json.dumps(evaluate(checkpoint, 3, seed=100_005, max_steps=5).to_json()))
    assert report["seeds"] == [100_005, 100_006, 100_007]
    assert (report["n_procs"], report["n_rollouts"], report["max_steps"]) == (1, 3, 5)
    successes = sum(row["success"] for row in report["episodes"])
    assert report["success_rate"] == successes / 3
    assert report["wilson95"] == list(wilson(successes, 3))
    assert report["checkpoint"]["step"] == 40
    assert report["checkpoint"]["dataset"]["file"] == "point.hdf5"
    assert report["checkpoint"]["spec"] == json.loads(json.dumps(point_spec().to_dict()))
    assert {"python", "torch", "numpy", "gymnasium", "lfm_policy"} <= set(report["versions"])
    assert set(report["hardware"]) == {"cpu", "cores", "threads_per_worker"}
    assert set(report["latency_ms"]) == {"p50", "p95"}
    assert {"command", "started", "wall_seconds", "nfe", "multiply_adds"} <= set(report)
    assert len(report["episodes"]) == 3


def test_a_solver_can_be_overruled_where_there_is_one(checkpoint: Path) -> None:
    def nfe(**options: Any) -> int:
        return evaluate(checkpoint, 1, max_steps=1, **options).summary["nfe"]

    assert nfe(solver="euler", solver_steps=1) * 6 == nfe(solver="midpoint", solver_steps=3)
    assert CheckpointSource(checkpoint, solver_steps=5)().nfe == nfe(solver_steps=5)
    cold = evaluate(checkpoint, 1, max_steps=3, temperature=0.0).to_json()
    assert cold["checkpoint"]["sampler"]["temperature"] == 0


def test_mistakes_in_numbers_are_refused(checkpoint: Path) -> None:
    with pytest.raises(LFMError, match="--n_rollouts"):
        evaluate(checkpoint, 0)
    with pytest.raises(LFMError, match="--max_steps 0"):
        evaluate(checkpoint, 1, max_steps=0)
    with pytest.raises(LFMError, match="--n_procs 0"):
        evaluate(checkpoint, 1, n_procs=0)
    with pytest.raises(LFMError, match="nowhere: does not exist"):
        evaluate("nowhere", 1)
