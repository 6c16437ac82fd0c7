"""The chain: push and pull are inverse, log_prob is a density, and neither mixes samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lfm_policy.flow import FIXED_STEP, LFMError, LocalFlow, Schedule, Solver
from lfm_policy.flow import named_generator as generator
from lfm_policy.nets import MLP
from tests.flow.analytic import linear_field
from tests.helpers.tensors import normal
from tests.nets.variants import NETWORKS, Variant

SCHEDULE = Schedule.geometric(3, 0.2, 1.5)
SOLVERS = [Solver(method, steps=1) for method in FIXED_STEP] + [Solver("dopri5", rtol=1e-2, atol=1e-2)]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.method)
every_network = pytest.mark.parametrize("variant", NETWORKS.values(), ids=NETWORKS)


def network(seed: int, cond_dim: int = 0, dim: int = 2) -> nn.Module:
    """A small smooth network in float64, far from the identity: weights of twice the usual size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MLP(dim, 32, 2, "silu", cond_dim).double()
    for weight in net.parameters():
        weight.data.mul_(2.0)
    return net


def random_flow(cond_dim: int = 0, shared: bool = False) -> LocalFlow:
    return LocalFlow([network(n, cond_dim) for n in range(1 if shared else 3)], SCHEDULE)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cond_dim", [0, 2])
def test_pull_undoes_push(shared: bool, cond_dim: int) -> None:
    """To the error of RK4 with 60 steps a sub-flow, (1/60)⁴ = 8e-8 times the fifth derivatives' small constants."""
    flow, x = random_flow(cond_dim, shared), normal(20, 2)
    cond = normal(20, cond_dim, seed=1) if cond_dim else None
    solver = Solver("rk4", steps=60)
    with torch.no_grad():
        pushed = flow.push(x, cond, solver)
        assert (pushed - x).abs().mean() > 0.1
        torch.testing.assert_close(flow.pull(pushed, cond, solver), x, atol=1e-7, rtol=0)
        torch.testing.assert_close(flow.push(flow.pull(x, cond, solver), cond, solver), x, atol=1e-7, rtol=0)


def test_push_and_pull_compose_the_named_subflows_in_their_order() -> None:
    flow, x = random_flow(), normal(5, 2)
    one_by_one = x
    for n in (1, 2, 3):
        one_by_one = flow.push(one_by_one, subflows=[n])
    assert torch.equal(flow.push(x), one_by_one)
    for n in (3, 2, 1):
        x = flow.pull(x, subflows=[n])
    assert torch.equal(flow.pull(normal(5, 2)), x)
    assert torch.equal(flow.push(x, subflows=[]), x)
    assert torch.equal(flow.pull(x, subflows=[]), x)


def test_velocity_is_the_fields_times_the_length_of_the_stretch() -> None:
    """The clock inside a stretch is an affine image of the sub-flow's own time."""
    flow, x = random_flow(), normal(6, 2)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    for n in (1, 2, 3):
        start, end = SCHEDULE.clock[n - 1 : n + 1]
        want = (end - start) * flow.field(n)(x, start + t * (end - start))
        torch.testing.assert_close(flow.velocity(n, x, t), want, atol=1e-14, rtol=0)
        whole = flow.velocity(n, x, 0.25)
        assert torch.equal(whole, flow.velocity(n, x, torch.full((6,), 0.25, dtype=torch.float64)))


def test_a_chain_of_one_field_is_solved_as_one_ode() -> None:
    """Sub-flows that share one field integrate it over the whole clock, whatever the schedule."""
    field = linear_field(2)
    x = normal(5, 3)
    chain = LocalFlow([field], SCHEDULE)
    solver = Solver("rk4", steps=60)
    torch.testing.assert_close(chain.push(x, solver=solver), field.exact(x, 0.0, 1.0), atol=1e-8, rtol=0)
    torch.testing.assert_close(chain.pull(x, solver=solver), field.exact(x, 1.0, 0.0), atol=1e-7, rtol=0)


def test_log_prob_of_an_affine_flow_is_its_closed_form() -> None:
    """The push is affine, by matrix exponentials; log|det| is Σ (τ_n - τ_(n-1)) tr A_n."""
    fields = [linear_field(n) for n in (1, 2, 3)]
    clock, x = SCHEDULE.clock, normal(7, 3)
    end, log_det = x, 0.0
    for field, start, stop in zip(fields, clock, clock[1:], strict=False):
        end = field.exact(end, start, stop)
        log_det += float(field.matrix.trace()) * (stop - start)
    want = -0.5 * end.pow(2).sum(1) - 1.5 * math.log(2 * math.pi) + log_det
    got = LocalFlow(fields, SCHEDULE).log_prob(x, solver=Solver("rk4", steps=60))
    torch.testing.assert_close(got, want, atol=1e-7, rtol=0)


@pytest.mark.parametrize("cond_dim", [0, 2])
def test_density_integrates_to_one(cond_dim: int) -> None:
    """Midpoint sum over [-8, 8]²; the density is smooth at the grid's 0.13, the default solver is what errs."""
    flow = random_flow(cond_dim)
    axis = (torch.arange(120, dtype=torch.float64) + 0.5) * (16 / 120) - 8
    grid = torch.cartesian_prod(axis, axis)
    cond = torch.tensor([[0.7, -0.3]], dtype=torch.float64).expand(len(grid), 2) if cond_dim else None
    with torch.no_grad():
        density = flow.log_prob(grid, cond).exp().reshape(120, 120)
    assert density[[0, -1]].sum() + density[:, [0, -1]].sum() < 1e-6  # nothing is cut off
    assert density.sum().item() * (16 / 120) ** 2 == pytest.approx(1, abs=2e-3)


def test_hutchinsons_log_prob_is_unbiased() -> None:
    """The end of the path is the same; the divergence's estimate averages to the exact one."""
    flow, x = random_flow(), normal(4, 2)
    solver = Solver("rk4", steps=2)
    with torch.no_grad():
        exact = flow.log_prob(x, solver=solver)
        estimates = torch.stack(
            [flow.log_prob(x, solver=solver, n_probes=1, generator=generator(k, "probe")) for k in range(100)]
        )
        many = flow.log_prob(x, solver=solver, n_probes=2000, generator=generator(0, "probe"))
    spread = estimates.std(0)
    assert ((estimates.mean(0) - exact).abs() < 4 * spread / math.sqrt(100)).all()
    assert (
        (many - exact).abs() < 4 * 1.4 * spread / math.sqrt(2000)
    ).all()  # 1.4: the spread is itself estimated, to 7 %
    assert spread.min() > 0.01


@pytest.mark.parametrize("solver", SOLVERS[:-1], ids=lambda s: s.method)
@pytest.mark.parametrize("n_probes", [0, 2])
def test_log_prob_does_not_depend_on_batch_mates(solver: Solver, n_probes: int) -> None:
    flow, x = random_flow(), normal(6, 2)
    others = x.clone()
    others[1:] *= 100.0
    with torch.no_grad():
        a, b = (flow.log_prob(y, None, solver, n_probes, generator(0, "probe")) for y in (x, others))
        assert torch.equal(a[0], b[0])
        # another batch size may sum in another order
        alone = flow.log_prob(x[:1], None, solver, n_probes, generator(0, "probe"))
        torch.testing.assert_close(alone[0], a[0], atol=1e-12, rtol=0)


def test_sample_is_the_pull_of_the_generators_noise() -> None:
    flow = random_flow(cond_dim=2)
    cond = normal(9, 2, seed=3)
    drawn = flow.sample((9, 2), cond, generator=generator(5, "noise"))
    noise = torch.randn(9, 2, generator=generator(5, "noise"), dtype=torch.float64)
    assert torch.equal(drawn, flow.pull(noise, cond))
    assert not torch.equal(drawn, flow.sample((9, 2), cond, generator=generator(6, "noise")))


@every_network
@every_solver
def test_laws_of_a_flow_over_every_network_and_solver(variant: Variant, solver: Solver) -> None:
    """Shapes and dtype are those of x, and a gradient reaches every weight of every sub-flow."""
    flow = LocalFlow([variant.build(), variant.build()], Schedule((0.3,)))
    x, _, cond = variant.inputs(2)
    pushed, pulled = flow.push(x, cond, solver), flow.pull(x, cond, solver)
    for y in (pushed, pulled):
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
    pushed.pow(2).sum().backward()
    for name, weight in flow.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@every_network
def test_log_prob_of_every_network_is_one_number_a_sample(variant: Variant) -> None:
    flow = LocalFlow([variant.build()], Schedule())
    x, _, cond = variant.inputs(2)
    for n_probes in (0, 1):
        value = flow.log_prob(x, cond, Solver("euler", steps=1), n_probes, generator(0, "probe"))
        assert (value.shape, value.dtype) == ((2,), x.dtype)
        assert value.isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_push_pull_and_sample_stay_on_the_networks_device(device: str) -> None:
    flow = random_flow().to(device)
    x = normal(4, 2).to(device)
    results = flow.push(x), flow.pull(x), flow.sample((4, 2), generator=generator(0, "noise"))
    assert {result.device.type for result in results} == {device}


def test_a_wrong_number_of_networks_is_refused() -> None:
    with pytest.raises(LFMError, match="fields: 2 networks for 3 sub-flows"):
        LocalFlow([network(0), network(1)], SCHEDULE)
