"""The policy in the environment's units, and what one of its chunks costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.flow import LFMError, Solver
from lfm_policy.policy import ChainConfig, LFMConfig, LFMPolicy, Sampler, UNetConfig, load_policy, save_policy
from lfm_policy.policy.network import check_horizon
from tests.policy.tiny import CONFIG, DA, TO, TP, observations, set_normalizer, tiny_policy, tiny_spec


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_predicted_chunks_are_the_flows_samples_in_the_environments_units() -> None:
    policy, obs = tiny_policy(), observations(5)
    chunk = policy.predict_action(obs, noise())
    assert chunk.shape == (5, TP, DA)
    joined = torch.cat([obs["object"], obs["eef"]], dim=-1)  # in the spec's order
    cond = ((joined - policy.observation_normalizer.offset) / policy.observation_normalizer.scale).reshape(5, -1)
    raw = policy.flow.sample((5, TP, DA), cond, CONFIG.sampler, noise())
    want = raw * policy.action_normalizer.scale + policy.action_normalizer.offset
    torch.testing.assert_close(chunk, want)
    assert not chunk.requires_grad


def test_prediction_is_a_function_of_observation_and_generator() -> None:
    policy, obs = tiny_policy(), observations(3)
    first = policy.predict_action(obs, noise(1))
    assert torch.equal(policy.predict_action(obs, noise(1)), first)
    assert not torch.allclose(policy.predict_action(obs, noise(2)), first)
    assert not torch.allclose(policy.predict_action(observations(3, seed=1), noise(1)), first)
    as_arrays = {key: value.numpy().astype(np.float64) for key, value in obs.items()}
    assert torch.equal(policy.predict_action(as_arrays, noise(1)), first)
    extra = {"camera": torch.zeros(1), **dict(reversed(obs.items()))}  # other keys and another order
    assert torch.equal(policy.predict_action(extra, noise(1)), first)


def test_chunks_of_a_batch_do_not_influence_each_other() -> None:
    policy, obs = tiny_policy(), observations(3)
    first = policy.predict_action(obs, noise())
    far = {key: torch.cat([value[:1], value[1:] * 100]) for key, value in obs.items()}
    assert torch.equal(policy.predict_action(far, noise())[0], first[0])


@pytest.mark.parametrize("n_probes", [0, 3])
def test_log_prob_changes_variables_under_the_normaliser(n_probes: int) -> None:
    """log p(a) = log p(normalised a) + Tp Σ log 1/scale, against the same policy with identities for normalisers."""
    policy, plain = tiny_policy(), tiny_policy(normalized=False)
    plain.flow.load_state_dict(policy.flow.state_dict())
    obs = observations(4)
    actions = torch.randn(4, TP, DA, generator=noise(3))
    got = policy.log_prob(obs, actions, Solver("rk4", steps=2), n_probes, noise())
    normalized_obs = {
        key: (value - policy.observation_normalizer.offset[part]) / policy.observation_normalizer.scale[part]
        for (key, value), part in zip(obs.items(), (slice(4), slice(4, 7)), strict=True)
    }
    offset, scale = policy.action_normalizer.offset, policy.action_normalizer.scale
    inner = plain.log_prob(normalized_obs, (actions - offset) / scale, Solver("rk4", steps=2), n_probes, noise())
    torch.testing.assert_close(got, inner - TP * scale.log().sum(), atol=1e-3, rtol=1e-5)
    assert TP * scale.log().sum().abs() > 0.5
    assert not got.requires_grad


def test_log_prob_of_a_still_flow_is_the_normals() -> None:
    """With weights of zero nothing moves: actions are N(offset, scale²) in their own units."""
    policy = tiny_policy()
    for weight in policy.parameters():
        weight.data.zero_()
    actions = torch.randn(4, TP, DA, generator=noise(3))
    law = torch.distributions.Normal(policy.action_normalizer.offset, policy.action_normalizer.scale)
    want = law.log_prob(actions).sum((1, 2))
    torch.testing.assert_close(policy.log_prob(observations(4), actions), want, atol=1e-3, rtol=1e-5)


def test_constant_action_dimensions_have_no_jacobian() -> None:
    policy = tiny_policy()
    solver = Solver("rk4", steps=1)
    base = policy.log_prob(observations(1), torch.zeros(1, TP, DA), solver)
    normalized = policy.action_normalizer.normalize(torch.zeros(DA))
    policy.action_normalizer.varying[1] = False
    set_normalizer(policy.action_normalizer, -normalized, torch.ones(DA))  # the same normalised chunk
    got = policy.log_prob(observations(1), torch.zeros(1, TP, DA), solver)
    scale = tiny_policy().action_normalizer.scale
    torch.testing.assert_close(got - base, TP * scale.log().sum()[None], atol=1e-3, rtol=1e-4)
    chunk = policy.predict_action(observations(1), noise())
    assert (chunk[..., 1] == -normalized[1]).all()  # and come out as their constant


@pytest.mark.parametrize(("method", "per_step"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("shared", [False, True])
def test_nfe_counts_the_networks_evaluations(method: str, per_step: int, shared: bool) -> None:
    config = replace(CONFIG, chain=replace(CONFIG.chain, share_weights=shared), sampler=Sampler(method, steps=3))
    policy = tiny_policy(config)
    calls = []
    for field in policy.flow.fields:
        field.register_forward_hook(lambda *_: calls.append(1))
    policy.predict_action(observations(1), noise())
    assert policy.nfe == len(calls) == 3 * 3 * per_step


@pytest.mark.parametrize("sampler", [Sampler(), Sampler("rk4", steps=1), Sampler("euler", steps=5)])
@pytest.mark.parametrize("shared", [False, True])
def test_multiply_adds_are_those_of_a_whole_prediction(sampler: Sampler, shared: bool) -> None:
    """torch's counter over `predict_action` for one chunk, two operations each."""
    config = replace(CONFIG, chain=replace(CONFIG.chain, share_weights=shared), sampler=sampler)
    policy = tiny_policy(config)
    with FlopCounterMode(display=False) as counter:
        policy.predict_action(observations(1), noise())
    assert policy.multiply_adds * 2 == counter.get_total_flops()


def test_multiply_adds_are_those_counted_by_hand() -> None:
    """The tiny UNet layer by layer: convolutions k · in · out · steps, linear maps in · out."""
    k, (a, b), cond, e, steps = 3, (8, 16), 8 + TO * 7, 8, TP

    def block(cin: int, cout: int, length: int) -> int:
        skip = cin * cout * length if cin != cout else 0
        return k * (cin * cout + cout * cout) * length + cond * 2 * cout + skip

    network = e * 4 * e + 4 * e * e  # the time's two layers
    network += block(DA, a, steps) + block(a, a, steps) + 3 * a * a * steps // 2  # down, halved
    network += block(a, b, steps // 2) + 3 * block(b, b, steps // 2)  # coarse level and middle
    network += block(2 * b, a, steps // 2) + block(a, a, steps // 2) + 4 * a * a * steps // 2  # up, doubled
    network += k * a * a * steps + a * DA * steps
    policy = tiny_policy()
    assert policy.nfe == 12
    assert policy.multiply_adds == policy.nfe * network


def test_another_sampler_changes_cost_and_chunk_but_not_the_weights() -> None:
    policy = tiny_policy()
    cost, chunk = policy.multiply_adds, policy.predict_action(observations(1), noise())
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    assert policy.set_sampler(steps=4) is policy
    assert (policy.nfe, policy.multiply_adds) == (24, 2 * cost)
    assert not torch.equal(policy.predict_action(observations(1), noise()), chunk)
    assert policy.set_sampler("euler").nfe == 12
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in weights.items())
    with pytest.raises(LFMError, match=r"sampler\.steps: 0"):
        policy.set_sampler(steps=0)
    with pytest.raises(LFMError, match=r"solver: dopri5 is no fixed-step method"):
        _ = policy.set_sampler("dopri5").nfe


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
def test_a_temperature_scales_the_noise_that_is_pulled(temperature: float) -> None:
    policy, obs = tiny_policy(), observations(5)
    want = policy.flow.pull(
        temperature * torch.randn(5, TP, DA, generator=noise()), policy.condition(obs), CONFIG.sampler
    )
    likelihood = policy.log_prob(obs, torch.zeros(5, TP, DA))
    assert policy.set_sampler(temperature=temperature) is policy
    got = policy.action_normalizer.normalize(policy.predict_action(obs, noise()))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert torch.equal(policy.log_prob(obs, torch.zeros(5, TP, DA)), likelihood)


def test_without_noise_there_is_one_chunk() -> None:
    policy, obs = tiny_policy(), observations(1)
    first, second = (policy.predict_action(obs, noise(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)
    policy.set_sampler(temperature=0)
    first, second = (policy.predict_action(obs, noise(seed)) for seed in (1, 2))
    assert torch.equal(first, second)


def test_a_temperature_is_kept_and_one_is_as_none(tmp_path: Path) -> None:
    save_policy(tiny_policy().set_sampler(temperature=0.5), tmp_path)
    policy = load_policy(tmp_path)
    assert isinstance(policy, LFMPolicy)
    assert policy.config.sampler.temperature == 0.5
    policy.set_sampler(steps=3)
    assert policy.config.sampler == Sampler("midpoint", 3, temperature=0.5)
    assert policy.set_sampler(temperature=1.0).config.sampler == Sampler("midpoint", 3)
    values = CONFIG.to_dict()
    del values["sampler"]["temperature"]  # as in checkpoints from before there was one
    assert LFMConfig.from_dict(values) == CONFIG


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_temperatures_are_refused(value: float) -> None:
    with pytest.raises(LFMError, match=rf"sampler\.temperature: {value} must be 0 or more"):
        tiny_policy().set_sampler(temperature=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eef": None}, "key 'eef' is missing; there are object"),
        ({"eef": torch.zeros(1, TO, 4)}, rf"'eef' has shape \(1, {TO}, 4\), expected \(B, {TO}, 3\)"),
        ({"object": torch.zeros(TO, 4)}, rf"'object' has shape \({TO}, 4\)"),
        ({"object": torch.zeros(1, TO + 1, 4)}, rf"'object' has shape \(1, {TO + 1}, 4\)"),
    ],
)
def test_wrong_observations_are_refused_by_their_key(change: dict, message: str) -> None:
    obs = {key: value for key, value in (observations(1) | change).items() if value is not None}
    with pytest.raises(LFMError, match=f"observation: .*{message}"):
        tiny_policy().predict_action(obs)


def test_actions_of_another_shape_are_refused() -> None:
    with pytest.raises(LFMError, match=rf"actions: shape \(2, {TP}, {DA + 1}\), expected \(2, {TP}, {DA}\)"):
        tiny_policy().log_prob(observations(2), torch.zeros(2, TP, DA + 1))


def test_a_horizon_that_cannot_be_halved_is_refused_with_one_that_can() -> None:
    with pytest.raises(LFMError, match=r"policy\.horizon: 10 is not divisible by 4.*use 8"):
        check_horizon(10, UNetConfig(channels=(8, 8, 8)))
    with pytest.raises(LFMError, match=r"policy\.horizon: 9 is not divisible by 2"):
        LFMPolicy(tiny_spec(horizon=9), CONFIG)
    for horizon in (4, 8, 16):
        check_horizon(horizon, UNetConfig(channels=(8, 8, 8)))


@pytest.mark.parametrize("network", [UNetConfig(channels=(12,)), UNetConfig(kernel_size=2), UNetConfig(channels=())])
def test_impossible_networks_are_the_users_errors(network: UNetConfig) -> None:
    with pytest.raises(LFMError, match=r"network\."):
        LFMPolicy(tiny_spec(), LFMConfig(network, ChainConfig(1)))


def test_weights_are_a_function_of_the_seed_and_subflows_differ() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    policies = [LFMPolicy(tiny_spec(), CONFIG, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    first = [next(policy.flow.parameters()) for policy in policies]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(next(policies[0].flow.field(2).parameters()), first[0])
    # 12 of the standard deviation of a uniform initialisation, 1/sqrt(3 fan_in): no layer is left unset
    assert all(weight.abs().max() < 12 / math.sqrt(3) for weight in policies[0].parameters())
