"""Likelihoods that say how wrong they are: converged per sample, at every boundary, in bounded memory."""

from __future__ import annotations

import math

import pytest
import torch

from lfm_policy.flow import LFMError, LocalFlow, Schedule, Solver, converged_log_prob
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.divergence import bytes_per_sample
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.flow.random import signs
from lfm_policy.nets import MLP
from tests.flow.analytic import GAUSSIAN, MIXTURE, Mixture, ideal_flow, linear_field
from tests.helpers.tensors import normal

SCHEDULE = Schedule.geometric(3, 0.2, 1.5)
# a direction of a thirtieth of the other deviation, as tables have them
THIN = Mixture.gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1e-3]])


def mlp_flow(dim: int = 3, cond_dim: int = 0, count: int = 3) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        nets = [MLP(dim, 16, 2, cond_dim=cond_dim).double() for _ in range(count)]
    return LocalFlow(nets, SCHEDULE)


def test_a_coarse_euler_solve_is_biased_and_ours_is_not() -> None:
    """The exact field of a Gaussian with a direction of variance 0.001: what is published as 149 Euler steps
    flatters the NLL by more than 0.05 nats; the converged one is the entropy's own sample mean."""
    flow = ideal_flow(THIN, Schedule(), ["trigonometric"], ["fresh"])
    x = THIN.sample(200, generator(0, "thin"))
    truth = THIN.log_prob(x)
    with torch.no_grad():
        euler = flow.log_prob(x, solver=Solver("euler", steps=149))
        ours = converged_log_prob(flow, x, tolerance=1e-3)
    assert (euler - truth).mean() > 0.05
    assert ours.converged.all()
    assert ours.change.abs().max() < 2e-3  # of the two parts together
    assert (ours.log_prob - truth).abs().max() < 2e-3  # what is left is less than the last move


def test_every_sample_has_as_many_steps_as_it_needs() -> None:
    """Far samples of a mixture turn later than near ones; a loose tolerance is content with the first doubling."""
    flow = ideal_flow(MIXTURE, SCHEDULE, ["geodesic"] * 3, ["fresh"] * 3)
    x = MIXTURE.sample(100, generator(0, "x"))
    with torch.no_grad():
        fine = converged_log_prob(flow, x, tolerance=1e-6, first_steps=1)
        loose = converged_log_prob(flow, x, tolerance=1e3, first_steps=1)
        lazy = converged_log_prob(flow, x, tolerance=1e-12, first_steps=1, max_steps=8)
    assert set(loose.steps.tolist()) == {2}
    assert len(set(fine.steps.tolist())) > 1
    torch.testing.assert_close(fine.log_prob, MIXTURE.log_prob(x), atol=2e-5, rtol=0)
    assert set(lazy.steps.tolist()) == {8}  # at the limit a figure says how much it moved
    assert not lazy.converged.any()


@pytest.mark.parametrize("n_probes", [0, 2])
def test_a_samples_figure_does_not_depend_on_its_batch_mates(n_probes: int) -> None:
    flow, x, others = mlp_flow(), normal(20, 3), normal(20, 3)
    others[0] = x[0]
    others[1:] *= 30.0
    with torch.no_grad():
        a = converged_log_prob(flow, x, n_probes=n_probes)
        b = converged_log_prob(flow, others, n_probes=n_probes)
        c = converged_log_prob(flow, x[:7], n_probes=n_probes)
    assert a.log_prob[0].item() == pytest.approx(b.log_prob[0].item(), abs=1e-12)
    assert a.steps[0] == b.steps[0]
    torch.testing.assert_close(a.log_prob[:7], c.log_prob, atol=1e-12, rtol=0)


def test_boundaries_are_the_likelihoods_of_the_shorter_chains() -> None:
    """Column n is log p under the first n sub-flows: the noise's own density, then each affine map's closed form."""
    fields, x = [linear_field(n) for n in (1, 2, 3)], normal(7, 3)
    found = converged_log_prob(LocalFlow(fields, SCHEDULE), x, tolerance=1e-9)
    end, log_det, clock = x, 0.0, SCHEDULE.clock
    torch.testing.assert_close(found.boundaries[:, 0], log_standard_normal(x))
    for n, field in enumerate(fields, start=1):
        end = field.exact(end, clock[n - 1], clock[n])
        log_det += float(field.matrix.trace()) * (clock[n] - clock[n - 1])
        torch.testing.assert_close(found.boundaries[:, n], log_standard_normal(end) + log_det, atol=1e-7, rtol=0)
    assert torch.equal(found.log_prob, found.boundaries[:, -1])


def test_push_with_log_det_is_the_push_and_its_jacobian() -> None:
    """log |det| against autograd's full Jacobian of the whole solve, whose discretisation differs: to the solver."""
    flow, x, solver = mlp_flow(), normal(4, 3), Solver("rk4", steps=40)
    with torch.no_grad():
        end, log_det = flow.push_with_log_det(x, solver=solver)
        torch.testing.assert_close(end, flow.push(x, solver=solver), atol=1e-12, rtol=0)
    for b in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda y: flow.push(y[None], solver=solver)[0], x[b])
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(log_det[b, 0].item(), abs=1e-7)


@pytest.mark.parametrize("probes", [None, 3])
@pytest.mark.parametrize("cond_dim", [0, 2])
def test_the_memory_budget_changes_nothing_but_the_pieces(probes: int | None, cond_dim: int) -> None:
    flow, x = mlp_flow(cond_dim=cond_dim), normal(9, 3)
    cond = normal(9, cond_dim, seed=2) if cond_dim else None
    drawn = None if probes is None else signs((probes, 9, 3), x, generator(0, "signs"))
    with torch.no_grad():
        whole = flow.push_with_log_det(x, cond, probes=drawn)
        for memory in (1, 5_000, 20_000):
            for got, want in zip(flow.push_with_log_det(x, cond, probes=drawn, memory=memory), whole, strict=True):
                torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    assert whole[1].shape == (9, probes or 1)


def test_pieces_stay_within_the_budget() -> None:
    """No reverse pass handles more samples times rows than the bytes allow; one sample and row always go."""
    flow, x = mlp_flow(dim=30, count=1), normal(50, 30)
    each = bytes_per_sample(lambda y: flow.velocity(1, y, 0.5), x[:1], flow)
    assert each > 2 * 16 * 8  # two hidden layers of 16 float64
    for memory in (1, each, 40 * each, 10**9):
        piece, rows = flow._pieces(x, None, None, memory)
        assert piece * rows * each <= max(memory, each)
        assert 1 <= piece <= 50
        assert 1 <= rows <= 30


def test_bytes_per_sample_grows_with_the_network_and_not_with_its_weights() -> None:
    def kept(width: int, batch: int = 1) -> int:
        net = MLP(3, width, 2)
        return bytes_per_sample(lambda y: net(y, torch.zeros(batch)), torch.zeros(batch, 3), net)

    assert 1.8 < kept(512) / kept(256) < 2.2  # weights would grow fourfold
    assert kept(256, 4) == pytest.approx(4 * kept(256), rel=0.05)


def test_hutchinsons_error_is_what_it_says() -> None:
    """(estimate - exact) / probe_error over 400 samples is Student's t with K - 1 degrees: its mean square is
    (K-1)/(K-3), found within five standard errors of a bootstrap."""
    flow, x, k = mlp_flow(), normal(400, 3), 12
    with torch.no_grad():
        exact = converged_log_prob(flow, x)
        estimate = converged_log_prob(flow, x, n_probes=k)
    assert exact.probe_error is None
    assert estimate.probe_error is not None
    squares = ((estimate.log_prob - exact.log_prob) / estimate.probe_error).pow(2)
    assert abs(squares.mean() - (k - 1) / (k - 3)) < 5 * squares.std() / math.sqrt(400)
    assert converged_log_prob(flow, x[:3], n_probes=1).probe_error is None


def test_a_path_that_leaves_the_numbers_is_named() -> None:
    field = linear_field(0)
    field.matrix.mul_(1e200)
    with pytest.raises(LFMError, match=r"log-likelihood of row 0 is (nan|-?inf)"):
        converged_log_prob(LocalFlow([field], Schedule()), normal(2, 3), max_steps=16)


def test_gaussian_data_have_their_entropy_by_every_route() -> None:
    """-E log p of the ideal chain, exact or by probes, is the entropy of the Gaussian within the sample's error."""
    flow = ideal_flow(GAUSSIAN, SCHEDULE, ["ot", "geodesic", "trigonometric"], ["fresh"] * 3)
    x = GAUSSIAN.sample(2000, generator(0, "x"))
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * GAUSSIAN.covariance).item()
    with torch.no_grad():
        for n_probes in (0, 1):
            log_prob = converged_log_prob(flow, x, n_probes=n_probes).log_prob
            assert abs(-log_prob.mean() - entropy) < 4 * log_prob.std() / math.sqrt(2000)
