"""What the comparison with other libraries rests on, without them: the reversed clock, equal sizes, the summary."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.peer_methods import ReversedTime, as_local_flow
from benchmarks.peers import PROBLEMS, load, run, summary
from benchmarks.widths import parameters, width_of
from lfm_policy.density import LocalFlowDensity
from lfm_policy.flow import Solver, converged_log_prob
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.nets import MLP
from tests.flow.analytic import linear_field


@pytest.mark.parametrize("seed", [0, 1])
def test_a_field_from_noise_to_data_has_the_closed_forms_likelihood(seed: int) -> None:
    """x_1 = Φ x_0 + b has log p(x_1) = log N(x_0; 0, I) - tr A for the field A x + u t + b."""
    field = linear_field(seed)
    noise = torch.randn(20, 3, generator=generator(seed, "noise"), dtype=torch.float64)
    data = field.exact(noise, 0.0, 1.0)
    found = converged_log_prob(as_local_flow(field), data, tolerance=1e-8)
    assert found.converged.all()
    torch.testing.assert_close(found.log_prob, log_standard_normal(noise) - field.matrix.trace(), atol=1e-6, rtol=0)


def test_pulling_the_reversed_field_is_its_flow_from_noise_to_data() -> None:
    field = linear_field(2)
    noise = torch.randn(5, 3, generator=generator(0, "noise"), dtype=torch.float64)
    pulled = as_local_flow(field).pull(noise, solver=Solver("rk4", steps=64))
    torch.testing.assert_close(pulled, field.exact(noise, 0.0, 1.0), atol=1e-5, rtol=1e-5)


def test_a_reversed_network_keeps_its_parameters() -> None:
    """A copy in float64 evaluates the same weights: what is measured is what was trained."""
    network = MLP(2, 8, 2)
    reversed_time = ReversedTime(copy.deepcopy(network).double())
    x, tau = torch.randn(4, 2, generator=generator(0, "x")), torch.linspace(0, 1, 4)
    torch.testing.assert_close(reversed_time(x.double(), tau.double()).float(), -network(x, 1 - tau))


@pytest.mark.parametrize("dim", [2, 8, 24])
def test_one_network_is_as_large_as_the_chain(dim: int) -> None:
    default = LocalFlowDensity()
    counted = sum(weight.numel() for weight in MLP(dim, default.width, default.depth).parameters())
    assert parameters(dim, default.width, default.depth, 0) == counted
    total = default.n_subflows * counted
    width = width_of(total, dim, default.depth, 0)
    assert sum(w.numel() for w in MLP(dim, width, default.depth).parameters()) == pytest.approx(total, rel=0.02)


def test_every_method_meets_whitened_rows_of_the_same_split() -> None:
    parts = load("diabetes", 1)
    eye = torch.eye(parts.train.shape[1], dtype=torch.float64)
    torch.testing.assert_close(parts.train.T @ parts.train / len(parts.train), eye, atol=1e-8, rtol=0)
    assert torch.equal(load("diabetes", 1).test, parts.test)
    assert not torch.equal(load("diabetes", 2).test, parts.test)


def test_the_gaussian_has_its_closed_form_in_standardised_columns() -> None:
    """The NLL of N(m, S) at the training rows is half the log-determinant of 2πe times their correlations."""
    parts = load("diabetes", 0)
    on_training_rows = -(log_standard_normal(parts.train).mean().item() + parts.to_standardised)
    correlations = torch.corrcoef(_own_rows("diabetes").T)
    closed = 0.5 * torch.logdet(2 * torch.pi * torch.e * correlations).item()
    assert on_training_rows == pytest.approx(closed, abs=1e-6)
    row = run("diabetes", "gaussian", 0, 1.0)
    assert row["test_nll"] == pytest.approx(
        -(log_standard_normal(parts.test).mean().item() + parts.to_standardised), abs=1e-5
    )


def _own_rows(data: str) -> torch.Tensor:
    from lfm_policy.data.tables import load_table

    return torch.from_numpy(load_table(data, seed=0, **PROBLEMS[data].sizes).train)


def test_the_summary_pairs_methods_by_split() -> None:
    base = {"data": "wine", "parameters": 7, "train_seconds": 2.0}
    rows = [
        {**base, "method": "lfm", "seed": 0, "test_nll": 1.0},
        {**base, "method": "lfm", "seed": 1, "test_nll": 3.0},
        {**base, "method": "other", "seed": 1, "test_nll": 3.5},
        {**base, "method": "other", "seed": 0, "test_nll": 1.5},
    ]
    lfm, other = summary(rows)
    assert (lfm["mean"], lfm["standard_error"]) == (2.0, 1.0)
    assert other["mean"] == 2.5
    assert (other["behind_lfm_mean"], other["behind_lfm_standard_error"]) == (0.5, 0.0)
    assert "behind_lfm_mean" not in lfm
