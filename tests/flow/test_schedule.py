"""Step sizes, OU moments and the chain's clock against their closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lfm_policy.flow import LFMError, Schedule, named_generator, ou_angle, ou_moments
from lfm_policy.flow.matching import ou_transition
from tests.flow.analytic import GAUSSIAN

GAMMAS = [0.0, 1e-12, 0.05, 0.7, 3.0, 50.0, math.inf]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ou_moments_preserve_unit_variance_and_are_those_of_an_angle(gamma: float) -> None:
    mean, std = ou_moments(gamma)
    assert mean == math.exp(-gamma)
    assert mean**2 + std**2 == pytest.approx(1, abs=1e-15)
    assert (mean, std) == pytest.approx((math.cos(ou_angle(gamma)), math.sin(ou_angle(gamma))), abs=1e-15)


def test_ou_std_keeps_its_digits_for_a_tiny_step() -> None:
    """σ² = 2γ - 2γ² + …, which 1 - e^-2γ loses to cancellation."""
    assert ou_moments(1e-12)[1] ** 2 == pytest.approx(2e-12, rel=1e-11)


def test_ou_steps_compose() -> None:
    """A step of γ then one of γ' is a step of γ + γ': r r', and r'² σ² + σ'²."""
    (r, s), (r2, s2), (both, spread) = ou_moments(0.3), ou_moments(0.5), ou_moments(0.8)
    assert r * r2 == pytest.approx(both, rel=1e-14)
    assert r2**2 * s**2 + s2**2 == pytest.approx(spread**2, rel=1e-14)


@pytest.mark.parametrize("gamma", [0.2, 1.0, math.inf])
def test_ou_transition_has_the_marginals_moments(gamma: float) -> None:
    count = 200_000
    x = GAUSSIAN.sample(count, named_generator(0, "data"))
    y = ou_transition(x, gamma, named_generator(1, "noise"))
    want = GAUSSIAN.diffused(gamma)
    # standard errors: of a mean sqrt(S_ii / M), of a covariance sqrt((S_ii S_jj + S_ij²) / M); five of them
    S = want.covariance
    diagonal = S.diagonal()
    assert ((y.mean(0) - want.mean).abs() < 5 * (diagonal / count).sqrt()).all()
    assert ((y.T.cov() - S).abs() < 5 * ((torch.outer(diagonal, diagonal) + S**2) / count).sqrt()).all()


@pytest.mark.parametrize(("n_subflows", "c", "rho"), [(1, 0.1, 1.0), (4, 0.15, 1.25), (2, 0.5, 1.0), (9, 0.025, 1.25)])
def test_geometric_schedule_is_equation_25(n_subflows: int, c: float, rho: float) -> None:
    schedule = Schedule.geometric(n_subflows, c, rho)
    assert schedule.n_subflows == n_subflows
    assert schedule.gammas == pytest.approx([rho ** (n - 1) * c for n in range(1, n_subflows)])
    assert [schedule.gamma(n) for n in range(1, n_subflows + 1)] == [*schedule.gammas, math.inf]
    geometric_sums = [sum(rho**k * c for k in range(n)) for n in range(n_subflows)]
    assert schedule.times == pytest.approx([*geometric_sums, math.inf])


@pytest.mark.parametrize("schedule", [Schedule(), Schedule.geometric(4, 0.15, 1.25), Schedule((3.0, 0.01))])
def test_clock_is_the_angle_of_the_ou_time(schedule: Schedule) -> None:
    clock = schedule.clock
    assert (clock[0], clock[-1]) == (0, 1)
    assert all(a < b for a, b in itertools.pairwise(clock))
    # arccos loses half its digits near 1, hence 1e-7 absolutely
    assert clock == pytest.approx([2 / math.pi * math.acos(math.exp(-t)) for t in schedule.times], abs=1e-7)


@pytest.mark.parametrize("gammas", [(0.1, 0.0), (-0.1,), (math.nan,), (math.inf,)])
def test_schedule_refuses_a_step_that_is_not_positive_and_finite(gammas: tuple[float, ...]) -> None:
    with pytest.raises(LFMError, match="schedule: step size"):
        Schedule(gammas)


def test_schedule_refuses_no_subflows() -> None:
    with pytest.raises(LFMError, match=r"flow\.n_subflows: 0"):
        Schedule.geometric(0, 0.1, 1.0)


def test_a_schedule_that_leaves_nothing_of_the_data_is_refused() -> None:
    with pytest.raises(LFMError, match=r"the last sub-flow would begin at OU time 90\.1, where nothing of the data"):
        Schedule.geometric(9, 0.01, 3.5)
