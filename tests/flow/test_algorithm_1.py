"""Algorithm 1 fits a 2-D mixture to its entropy in every setting, and N = 1 is plain flow matching."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import INTERPOLANTS, FitOptions, LocalFlow, Matching, Schedule, Solver, fit_local_flow
from lfm_policy.flow import named_generator as generator
from lfm_policy.nets import MLP
from tests.flow.analytic import TWO

SCHEDULE = Schedule.geometric(3, 0.15, 1.3)
OPTIONS = FitOptions(steps=600, batch_size=256, learning_rate=3e-3, beta1=0.9, warmup_steps=30)
SETTINGS = {
    "pushed, fresh, ot": {},
    "exact, common": {"matching": Matching("geodesic", "common", "exact")},
    "shared start": {"matching": Matching("geodesic", "common", "exact"), "shared_start": 600, "steps": 300},
    "warm start": {"warm_start": True},
    "shared weights": {},
}


def networks(count: int, seed: int = 0) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [MLP(2, 48, 3) for _ in range(count)]


def fit(options: FitOptions, n_networks: int = 3, schedule: Schedule = SCHEDULE) -> LocalFlow:
    data = TWO.sample(20_000, generator(0, "data")).float()
    return fit_local_flow(LocalFlow(networks(n_networks), schedule), data, options)


def divergence_from_truth(flow: LocalFlow) -> tuple[float, float]:
    """KL(p ‖ flow) in nats on fresh samples and its standard error: log p - log flow has far less spread than NLL."""
    x = TWO.sample(2000, generator(1, "test"))
    with torch.no_grad():
        ratio = TWO.log_prob(x) - flow.log_prob(x.float(), solver=Solver("rk4", steps=8)).double()
    return ratio.mean().item(), ratio.std().item() / math.sqrt(len(x))


def test_entropy_by_quadrature_is_the_mean_surprise() -> None:
    """What NLL is compared with: -E log p over 100,000 samples, within 4 standard errors."""
    surprise = -TWO.log_prob(TWO.sample(100_000, generator(2, "test")))
    assert abs(surprise.mean() - TWO.entropy()) < 4 * surprise.std() / math.sqrt(100_000)


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_likelihood_reaches_the_entropy(setting: str) -> None:
    """NLL - H = KL ≥ 0: 0.025 to 0.035 nats at this small budget, where the best Gaussian stays at 0.60."""
    flow = fit(replace(OPTIONS, **SETTINGS[setting]), 1 if setting == "shared weights" else 3)
    excess, error = divergence_from_truth(flow)
    assert error < 0.01
    assert -4 * error < excess < 0.08


@pytest.mark.parametrize("interpolant", list(INTERPOLANTS))
@pytest.mark.parametrize("coupling", ["fresh", "independent", "ot"])
def test_every_interpolant_and_coupling_learns(interpolant: str, coupling: str) -> None:
    """A short run ends at 0.07 to 0.17 nats, and must end at half of what the best Gaussian reaches."""
    best_gaussian = 0.5 * torch.logdet(2 * math.pi * math.e * TWO.covariance).item() - TWO.entropy()
    short = replace(OPTIONS, steps=200, batch_size=64, learning_rate=1e-2, warmup_steps=10)
    flow = fit(replace(short, matching=Matching(interpolant, coupling)), 2, Schedule((0.4,)))
    assert divergence_from_truth(flow)[0] < 0.5 * best_gaussian


def test_pushed_samples_are_what_the_next_subflow_trains_on() -> None:
    """Algorithm 1: a first sub-flow that does nothing hands the data on as they are, and the second learns from those.

    With exact marginals the second sub-flow starts from the OU marginal, whatever the first has become.
    """
    data = TWO.sample(4000, generator(0, "data")).float()
    schedule = Schedule((5.0,))  # p_1 is all but N(0, I), the data are not
    spread = {}
    for marginals in ("pushed", "exact"):
        flow = LocalFlow([Still(), Recorder()], schedule)
        options = replace(OPTIONS, steps=20, learning_rate=1e-12, matching=Matching(marginals=marginals))
        fit_local_flow(flow, data, options)
        spread[marginals] = torch.cat(Recorder.seen).norm(dim=1)
        Recorder.seen.clear()
    # of 2-D noise a share 1 - e^-(0.5²/2) = 0.118 lies within 0.5; of the data almost nothing does
    of_data = (data.norm(dim=1) < 0.5).float().mean()
    assert (spread["pushed"] < 0.5).float().mean() == pytest.approx(of_data.item(), abs=0.01)
    assert (spread["exact"] < 0.5).float().mean() == pytest.approx(1 - math.exp(-0.125), abs=0.02)


def test_one_subflow_is_plain_flow_matching() -> None:
    """The same weights as flow matching written down by hand: x_t = (1 - t) x + t z, target z - x."""
    data = TWO.sample(500, generator(0, "data"))
    options = FitOptions(steps=20, batch_size=32, learning_rate=1e-3, warmup_steps=4, weight_decay=1e-2)
    (network,) = networks(1)
    network = network.double()
    reference = copy.deepcopy(network)
    flow = fit_local_flow(LocalFlow([network], Schedule()), data, options, seed=9)
    for got, want in zip(flow.parameters(), plain_flow_matching(reference, data, options, 9).parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


def plain_flow_matching(network: nn.Module, data: Tensor, options: FitOptions, seed: int) -> nn.Module:
    """Returns the averaged weights."""
    average = copy.deepcopy(network)
    betas = (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(network.parameters(), 1.0, betas, weight_decay=options.weight_decay)
    order = torch.cat([torch.randperm(500, generator=generator(seed, "order", 1, e)) for e in range(2)])
    for k in range(options.steps):
        x, g = data[order[32 * k : 32 * (k + 1)]], generator(seed, "train", 1, k)
        z = torch.randn(x.shape, generator=g, dtype=x.dtype)
        t = torch.rand(len(x), generator=g, dtype=x.dtype)
        loss = (network((1 - t[:, None]) * x + t[:, None] * z, t) - (z - x)).pow(2).mean()
        progress = (k - options.warmup_steps) / (options.steps - options.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = options.learning_rate * (min((k + 1) / 4, 1) if k < 4 else cosine)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = 1 - (1 + k) ** -0.75
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.data = decay * mean.data + (1 - decay) * value.data
    return average


class Still(nn.Module):
    """A sub-flow that moves nothing, with a weight for the optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        return x * 0 + self.weight * 0


class Recorder(Still):
    """Keeps what it is asked near the start of its stretch."""

    seen: list[Tensor] = []  # noqa: RUF012

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        near = tau < Schedule((5.0,)).clock[1] + 0.02 * (1 - Schedule((5.0,)).clock[1])
        Recorder.seen.append(x[near].detach())
        return super().forward(x, tau, cond)
