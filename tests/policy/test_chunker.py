"""Alignment of chunks, and the control loop against a loop written down by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lfm_policy.flow import LFMError
from lfm_policy.policy import ActionChunker, PolicySpec
from tests.policy.tiny import DA, tiny_policy, tiny_spec


class Predictor:
    """Chunks whose actions are numbers: 1000 · prediction + step of the chunk; keeps what it saw."""

    def __init__(self, spec: PolicySpec) -> None:
        self.spec, self.seen = spec, []

    def __call__(self, obs: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        self.seen.append({key: value.clone() for key, value in obs.items()})
        steps = torch.arange(self.spec.horizon, dtype=torch.float32) + 1000 * (len(self.seen) - 1)
        return steps[None, :, None].expand(1, -1, DA)


def frame(step: int) -> dict[str, np.ndarray]:
    """An observation that tells its time step."""
    return {"object": np.full(4, step, np.float64), "eef": np.full(3, -step, np.float64), "camera": np.zeros(2)}


SIZES = [(2, 8, 4), (2, 16, 8), (1, 4, 4), (3, 8, 1), (1, 1, 1), (4, 8, 5)]
every_size = pytest.mark.parametrize(("n_obs", "horizon", "n_act"), SIZES)


@every_size
def test_executed_actions_are_those_from_the_newest_observation_on(n_obs: int, horizon: int, n_act: int) -> None:
    spec = tiny_spec(n_obs_steps=n_obs, horizon=horizon, n_action_steps=n_act)
    assert list(range(horizon))[spec.executed] == list(range(n_obs - 1, n_obs - 1 + n_act))


@every_size
def test_control_loop_is_the_reference(n_obs: int, horizon: int, n_act: int) -> None:
    """At step t the chunk made at s = t - t % Ta is at To - 1 + t % Ta; its history repeats the first observation."""
    spec = tiny_spec(n_obs_steps=n_obs, horizon=horizon, n_action_steps=n_act)
    predict = Predictor(spec)
    chunker = ActionChunker(predict, spec)
    for t in range(3 * n_act + 1):
        action = chunker.act(frame(t))
        assert action.shape == (DA,)
        assert action.tolist() == [1000 * (t // n_act) + n_obs - 1 + t % n_act] * DA
    assert len(predict.seen) == chunker.n_predictions == len(chunker.chunk_seconds) == 4
    for k, seen in enumerate(predict.seen):
        times = [float(max(0, k * n_act - n_obs + 1 + i)) for i in range(n_obs)]
        assert set(seen) == {"object", "eef"}
        assert torch.equal(seen["object"], torch.tensor(times)[None, :, None].expand(1, n_obs, 4))
        assert torch.equal(seen["eef"], -torch.tensor(times)[None, :, None].expand(1, n_obs, 3))
        assert seen["eef"].dtype == torch.float32


def test_reset_forgets_history_queue_and_counts() -> None:
    spec = tiny_spec()
    predict = Predictor(spec)
    chunker = ActionChunker(predict, spec)
    for t in range(5):
        chunker.act(frame(t))
    chunker.reset(3)
    assert (chunker.n_predictions, chunker.chunk_seconds) == (0, [])
    chunker.act(frame(9))
    assert torch.equal(predict.seen[-1]["object"], torch.full((1, 2, 4), 9.0))


def test_observations_may_be_changed_in_place_afterwards() -> None:
    """An environment may hand out the same array every step."""
    spec = tiny_spec(n_action_steps=1)
    predict = Predictor(spec)
    chunker = ActionChunker(predict, spec)
    shared = {"object": np.zeros(4, np.float32), "eef": np.zeros(3, np.float32)}
    for t in range(3):
        shared["object"][:] = t
        chunker.act(shared)
    assert predict.seen[-1]["object"][0, :, 0].tolist() == [1.0, 2.0]


def test_actions_of_an_episode_are_a_function_of_its_seed() -> None:
    policy = tiny_policy()

    def episode(seed: int | None) -> np.ndarray:
        policy.reset(seed)
        return np.stack([policy.act(frame(t)) for t in range(6)])

    first = episode(5)
    assert not np.array_equal(first, episode(6))
    np.testing.assert_array_equal(first, episode(5))
    assert policy.n_predictions == 2
    torch.manual_seed(99)
    np.testing.assert_array_equal(first, episode(5))
    np.testing.assert_array_equal(episode(None), episode(6))  # the seed after 5: another try has other noise


def test_an_observation_of_one_number_may_be_a_number() -> None:
    spec = dataclasses.replace(tiny_spec(), observation=(("object", 4), ("width", 1)))
    predict = Predictor(spec)
    chunker = ActionChunker(predict, spec)
    chunker.act({"object": np.zeros(4), "width": 0.04})  # type: ignore[dict-item]
    assert predict.seen[0]["width"].shape == (1, spec.n_obs_steps, 1)
    with pytest.raises(LFMError, match=r"'object' has shape \(\)"):
        chunker.act({"object": 0.0, "width": np.zeros(1)})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"object": np.zeros(4)}, "key 'eef' is missing; there are object"),
        ({"object": np.zeros(4), "eef": np.zeros(2)}, r"'eef' has shape \(2,\), the policy was trained on \(3,\)"),
        ({"object": np.zeros((1, 4)), "eef": np.zeros(3)}, r"'object' has shape \(1, 4\)"),
    ],
)
def test_a_wrong_observation_is_refused_by_its_key(obs: dict, message: str) -> None:
    chunker = ActionChunker(Predictor(tiny_spec()), tiny_spec())
    with pytest.raises(LFMError, match=f"observation: .*{message}"):
        chunker.act(obs)
    assert chunker.act(frame(0)).tolist() == [1.0] * DA  # the refused one has left no trace


@pytest.mark.parametrize("sizes", [(2, 8, 8), (2, 8, 0), (0, 8, 1), (9, 8, 1)])
def test_more_actions_than_a_chunk_holds_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(LFMError, match=rf"policy\.n_action_steps: {sizes[2]} must lie between 1 and"):
        tiny_spec(n_obs_steps=sizes[0], horizon=sizes[1], n_action_steps=sizes[2])


def test_spec_survives_json() -> None:
    spec = tiny_spec()
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert set(spec.to_dict()) == {entry.name for entry in dataclasses.fields(PolicySpec)}
    assert spec.observation_dim == 7
