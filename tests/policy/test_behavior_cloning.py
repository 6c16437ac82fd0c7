"""Regression and MIP: their problems, and how their steps follow each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import LFMError, Regression, Schedule
from lfm_policy.flow.matching import matching_loss
from lfm_policy.policy import MIPPolicy, MIPSettings, RegressionPolicy
from lfm_policy.policy.behavior_cloning import ChunkRegression, MIPConfig, RegressionConfig, TwoStepRegression
from tests.policy.tiny import CONFIG, observations, tiny_spec


class Recorder(nn.Module):
    """Says 3 x + t + the mean of the condition, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.asked.append((x, t))
        return 3 * x + (t + cond.mean(1))[:, None, None] + self.anchor


def test_regression_asks_once_and_without_noise() -> None:
    policy, field = RegressionPolicy(tiny_spec(), RegressionConfig(CONFIG.network)), Recorder()
    policy.flow.fields[0] = field
    obs = observations(3)
    chunk = policy.predict_action(obs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(chunk, (1 + policy.condition(obs).mean(1))[:, None, None].expand(3, 8, 3))
    assert (len(field.asked), policy.nfe) == (1, 1)
    with pytest.raises(LFMError, match="policy of type regression has no sampler"):
        policy.set_sampler(steps=2)


def test_mip_denoises_what_it_said_first() -> None:
    """In the authors' terms: a_0 = π(o, 0, t = 0), then π(o, t* a_0, t*); our clock is 1 - t."""
    policy, field = MIPPolicy(tiny_spec(), MIPConfig(CONFIG.network, MIPSettings(0.75))), Recorder()
    policy.flow.fields[0] = field
    obs = observations(3)
    mean = policy.condition(obs).mean(1)
    want = 3 * 0.75 * (1 + mean) + 0.25 + mean
    torch.testing.assert_close(policy.predict_action(obs), want[:, None, None].expand(3, 8, 3))
    assert (len(field.asked), policy.nfe) == (2, 2)


def test_regressions_problem_is_the_chunk_from_nothing() -> None:
    x = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(1))
    problem = ChunkRegression().draw(x, 1, Schedule(), torch.Generator())
    assert not problem.x.any()
    assert torch.equal(problem.target, x)
    assert torch.equal(problem.t, torch.ones(5))


def test_mips_problem_is_both_steps_as_often_each_by_its_weight() -> None:
    t_star, count = 0.8, 20_000
    x = torch.full((count, 2), 0.5)
    problem = TwoStepRegression(MIPSettings(t_star, second_weight=5.0)).draw(
        x, 1, Schedule(), torch.Generator().manual_seed(3)
    )
    second = problem.t < 0.5
    assert abs(second.float().mean().item() - 0.5) < 5 * 0.5 / count**0.5
    assert not problem.x[~second].any()
    noise = (problem.x[second] - t_star * 0.5) / (1 - t_star)
    # the mean and the deviation of so many normal numbers, five standard errors
    n = noise.numel()
    assert noise.mean().abs() < 5 / n**0.5
    assert (noise.std() - 1).abs() < 5 / (2 * n) ** 0.5
    assert torch.equal(problem.target, x)
    torch.testing.assert_close(problem.t[second], torch.full((int(second.sum()),), 1 - t_star))
    assert problem.weight is not None
    assert torch.equal(problem.weight, torch.where(second, 5.0, 1.0))


def test_weighted_losses_are_those_of_samples_counted_as_often() -> None:
    g = torch.Generator().manual_seed(0)
    x, target = torch.randn(3, 4, 2, generator=g), torch.randn(3, 4, 2, generator=g)
    weighted = Regression(x, torch.zeros(3), target, torch.tensor([1.0, 0.0, 2.0]))
    repeated = [0, 2, 2]
    plain = Regression(x[repeated], torch.zeros(3), target[repeated])
    got, want = (matching_loss(lambda x, t, cond: 2 * x, problem, None) for problem in (weighted, plain))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("t_star", [0.0, 1.0, float("nan")])
def test_a_second_step_that_is_none_is_refused(t_star: float) -> None:
    with pytest.raises(LFMError, match=r"mip\.t_star: .* must lie strictly between 0 and 1"):
        MIPSettings(t_star)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_of_the_second_step_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(LFMError, match=r"mip\.second_weight: .* must be above 0 and finite"):
        MIPSettings(second_weight=weight)
