"""The ideal chain is the ideal global map, and its likelihood is the data's."""

from __future__ import annotations

import pytest
import torch

from lfm_policy.flow import LocalFlow, Schedule, Solver, named_generator
from tests.flow.analytic import MIXTURE, ideal_flow

FINE = Solver("dopri5", rtol=1e-10, atol=1e-10)

CHAINS = {
    "one trigonometric block": (Schedule(), ["trigonometric"], ["fresh"]),
    "one geodesic block": (Schedule(), ["geodesic"], ["fresh"]),
    "POWER schedule, ot": (Schedule.geometric(4, 0.15, 1.3), ["ot"] * 4, ["fresh"] * 4),
    "POWER schedule, trigonometric": (Schedule.geometric(4, 0.15, 1.3), ["trigonometric"] * 4, ["fresh"] * 4),
    "common noise": (Schedule.geometric(3, 0.2, 1.0), ["ot", "trigonometric", "geodesic"], ["common"] * 3),
    "mixed": (Schedule((0.4, 0.05)), ["geodesic", "ot", "trigonometric"], ["common", "fresh", "fresh"]),
}


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return MIXTURE.sample(24, named_generator(0, "points"))


@pytest.fixture(scope="module")
def global_map(points: torch.Tensor) -> torch.Tensor:
    return _global_flow().push(points, solver=FINE)


@pytest.mark.parametrize("name", list(CHAINS))
def test_ideal_chain_is_the_ideal_global_map(name: str, points: torch.Tensor, global_map: torch.Tensor) -> None:
    """dopri5 to 1e-10 a step; its errors add up to some 1e-8 over the chains."""
    chain = ideal_flow(MIXTURE, *CHAINS[name])
    torch.testing.assert_close(chain.push(points, solver=FINE), global_map, atol=2e-7, rtol=0)
    torch.testing.assert_close(chain.pull(global_map, solver=FINE), points, atol=2e-7, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ideal_subflows_pass_through_the_ou_marginals(n: int) -> None:
    """The first n sub-flows' likelihood, with p_n for the normal, is the data's: T_n carries p_(n-1) to p_n."""
    schedule, interpolants, couplings = CHAINS["POWER schedule, ot"]
    chain = ideal_flow(MIXTURE, schedule, interpolants, couplings)
    x = MIXTURE.sample(8, named_generator(1, "points"))

    def push(x: torch.Tensor) -> torch.Tensor:
        return chain.push(x[None], solver=Solver("rk4", steps=40), subflows=range(1, n + 1))[0]

    log_det = torch.linalg.slogdet(torch.func.vmap(torch.func.jacrev(push))(x))[1]
    pushed = torch.func.vmap(push)(x)
    end = MIXTURE.diffused(schedule.times[n])
    torch.testing.assert_close(end.log_prob(pushed) + log_det, MIXTURE.log_prob(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["POWER schedule, ot", "mixed"])
def test_log_prob_of_the_ideal_chain_is_the_datas(name: str, points: torch.Tensor) -> None:
    """RK4 with 40 steps a sub-flow: halving them changes this by less than 1e-5."""
    chain = ideal_flow(MIXTURE, *CHAINS[name])
    got = chain.log_prob(points, solver=Solver("rk4", steps=40))
    torch.testing.assert_close(got, MIXTURE.log_prob(points), atol=1e-4, rtol=0)


def test_a_missing_subflow_is_another_map(points: torch.Tensor, global_map: torch.Tensor) -> None:
    """The law above can fail: a chain with sub-flow 2 left out is far from the global map."""
    schedule, interpolants, couplings = CHAINS["POWER schedule, ot"]
    pushed = ideal_flow(MIXTURE, schedule, interpolants, couplings).push(points, solver=FINE, subflows=[1, 3, 4])
    assert (pushed - global_map).abs().max() > 1e-2


def _global_flow() -> LocalFlow:
    return ideal_flow(MIXTURE, Schedule(), ["ot"], ["fresh"])
