"""Stages fed with batches of data by someone else train what Fitter trains from the same batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Matching, Schedule, TensorSource
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.source import BatchOrder
from lfm_policy.flow.stages import StagedFit, plan_stages
from lfm_policy.nets import MLP

BASE = FitOptions(steps=5, batch_size=7, learning_rate=1e-2, warmup_steps=2)
SETTINGS: dict[str, FitOptions] = {
    "pushed": BASE,
    "exact": replace(BASE, matching=Matching("geodesic", "common", "exact")),
    "warm start": replace(BASE, warm_start=True),
    "shared start": replace(BASE, shared_start=3),
    "diffused": replace(BASE, initial_diffusion=0.1, matching=Matching(marginals="exact")),
}


def chain() -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalFlow([MLP(2, 8, 1, cond_dim=1) for _ in range(3)], Schedule.geometric(3, 0.3, 1.2))


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(20, 2, generator=generator(0, "x")).cumsum(1)
    return x, x[:, :1] ** 2


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_batches_pushed_when_they_come_train_the_same_flow(setting: str) -> None:
    options, (x, cond) = SETTINGS[setting], data()
    whole = Fitter(chain(), TensorSource(x, cond), options, seed=5)
    staged = StagedFit(chain(), options, 5, plan_stages(whole.flow, options))
    while not whole.done:
        expected = whole.step()
        index = BatchOrder(len(x), options.batch_size, 5, expected.n)(expected.step - 1)
        got = staged.step_from_data(x[index], cond[index])
        assert (got.n, got.step, got.learning_rate) == (expected.n, expected.step, expected.learning_rate)
        assert got.loss == pytest.approx(expected.loss, rel=1e-4)
    assert staged.done
    for name, weight in whole.flow.state_dict().items():
        torch.testing.assert_close(staged.flow.state_dict()[name], weight, rtol=1e-3, atol=1e-5)


def test_data_reach_a_subflow_through_all_before_it() -> None:
    flow, (x, cond) = chain(), data()
    staged = StagedFit(flow, BASE, 0, plan_stages(flow, BASE))
    for n in (1, 2, 3):
        expected = flow.push(x, cond, BASE.push_solver, range(1, n))
        assert torch.equal(staged.pushed_so_far(x, cond, "x", 0), expected)
        while not staged.stage_done:
            staged.step_from_data(x, cond)
        if n < 3:
            staged.next_stage()


def test_pushed_data_were_diffused_once() -> None:
    """p_0 is the data's OU diffusion: what reaches sub-flow 2 is the push of that, with the named noise."""
    options, (x, cond) = replace(BASE, initial_diffusion=0.2), data()
    flow = chain()
    staged = StagedFit(flow, options, 4, plan_stages(flow, options))
    staged.next_stage()
    z = torch.randn(x.shape, generator=generator(4, "here", 9))
    diffused = torch.e**-0.2 * x + (1 - torch.e**-0.4) ** 0.5 * z
    expected = flow.push(diffused, cond, options.push_solver, [1])
    torch.testing.assert_close(staged.pushed_so_far(x, cond, "here", 9), expected)
