"""Sub-flows on exact marginals trained side by side are those trained one after the other."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lfm_policy.flow import FitOptions, LFMError, LocalFlow, Matching, Schedule, fit_in_parallel, fit_local_flow
from lfm_policy.flow import named_generator as generator
from lfm_policy.nets import MLP

EXACT = Matching("geodesic", "common", "exact")
OPTIONS = FitOptions(steps=6, batch_size=8, learning_rate=1e-2, warmup_steps=2, matching=EXACT)


def chain(count: int = 3, cond_dim: int = 1) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalFlow([MLP(2, 8, 1, cond_dim=cond_dim) for _ in range(count)], Schedule((0.2, 0.3)))


def test_weights_are_those_of_the_sequential_fit() -> None:
    """Bit for bit on one thread, which the package's fixture sets here and the processes set for themselves."""
    options = replace(OPTIONS, shared_start=5, initial_diffusion=0.01)
    x = torch.randn(30, 2, generator=generator(0, "x"))
    one_by_one = fit_local_flow(chain(), x, options, x[:, :1], seed=3)
    start = chain()
    side_by_side = fit_in_parallel(start, x, options, x[:, :1], seed=3)
    assert side_by_side is start
    for (name, got), want in zip(side_by_side.state_dict().items(), one_by_one.state_dict().values(), strict=True):
        assert torch.equal(got, want), name
    assert not torch.equal(next(start.parameters()), next(chain().parameters()))


@pytest.mark.parametrize(
    ("options", "n_networks"),
    [
        (replace(OPTIONS, matching=Matching()), 3),
        (replace(OPTIONS, warm_start=True), 3),
        (OPTIONS, 1),
    ],
    ids=["pushed", "warm start", "shared weights"],
)
def test_dependent_subflows_are_refused(options: FitOptions, n_networks: int) -> None:
    flow = chain(n_networks)
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(LFMError, match="fit_in_parallel: sub-flows are independent only with exact marginals"):
        fit_in_parallel(flow, torch.zeros(4, 2), options, torch.zeros(4, 1))
    assert all(torch.equal(flow.state_dict()[name], value) for name, value in before.items())
