"""Every coupling: right marginals at both ends, and what sets it apart from the others."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from lfm_policy.flow import COUPLINGS, FitOptions, Fitter, LFMError, LocalFlow, Matching, Schedule, TensorSource
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.interpolant import interpolate
from lfm_policy.flow.matching import Ends, draw_whole_clock
from lfm_policy.nets import MLP
from tests.flow.analytic import GAUSSIAN, MixtureField

SCHEDULE = Schedule.geometric(3, 0.2, 1.5)
COUNT = 100_000
KINDS = [(c, m) for c, m in itertools.product(COUPLINGS, ("exact", "pushed")) if (c, m) != ("common", "pushed")]
every_kind = pytest.mark.parametrize(("coupling", "marginals"), KINDS)


def ends_of(coupling: str, marginals: str, n: int, count: int = COUNT) -> Ends:
    """Ends of sub-flow n from what the setting asks for: data if exact, p_(n-1) if pushed."""
    law = GAUSSIAN if marginals == "exact" else GAUSSIAN.diffused(SCHEDULE.times[n - 1])
    matching = Matching(coupling=coupling, marginals=marginals)
    if coupling != "ot":
        return matching.ends(law.sample(count, generator(0, "data")), n, SCHEDULE, generator(0, "ends", n))
    parts = [  # the assignment is cubic in the batch: many small ones
        matching.ends(law.sample(250, generator(i, "data")), n, SCHEDULE, generator(i, "ends", n))
        for i in range(count // 2500)
    ]
    return Ends(torch.cat([p.left for p in parts]), torch.cat([p.right for p in parts]), parts[0].angle)


def z_scores(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Deviations of sample moments, in standard errors sqrt(S_ii / M) and sqrt((S_ii S_jj + S_ij²) / M)."""
    d = covariance.diagonal()
    of_mean = (x.mean(0) - mean) / (d / len(x)).sqrt()
    of_covariance = (x.T.cov() - covariance) / ((torch.outer(d, d) + covariance**2) / len(x)).sqrt()
    return torch.cat([of_mean, of_covariance.flatten()])


@every_kind
@pytest.mark.parametrize("n", [1, 2, 3])
def test_both_ends_have_the_ou_marginals(coupling: str, marginals: str, n: int) -> None:
    """Twelve z-scores a case, 252 in all, mostly of Gaussians: 5 is passed by chance with probability 2e-4."""
    ends = ends_of(coupling, marginals, n)
    for x, time in ((ends.left, SCHEDULE.times[n - 1]), (ends.right, SCHEDULE.times[n])):
        law = GAUSSIAN.diffused(time)
        assert z_scores(x, law.mean, law.covariance).abs().max() < 5


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("coupling", ["fresh", "common"])
def test_coupled_ends_have_the_joint_moments_of_their_definition(coupling: str, n: int) -> None:
    """Covariance of left and right: r S_l for fresh noise, r_l r_r S + σ_l σ_r I for common noise."""
    ends = ends_of(coupling, "exact", n)
    r = [math.exp(-t) for t in SCHEDULE.times[n - 1 : n + 1]]
    left, right, S = *(GAUSSIAN.diffused(t).covariance for t in SCHEDULE.times[n - 1 : n + 1]), GAUSSIAN.covariance
    sigma = math.sqrt((1 - r[0] ** 2) * (1 - r[1] ** 2))
    cross = {"fresh": r[1] / r[0] * left, "common": r[0] * r[1] * S + sigma * torch.eye(2)}[coupling]
    covariance = torch.cat([torch.cat([left, cross], 1), torch.cat([cross.T, right], 1)])
    mean = torch.cat([r[0] * GAUSSIAN.mean, r[1] * GAUSSIAN.mean])
    assert z_scores(torch.cat([ends.left, ends.right], 1), mean, covariance).abs().max() < 5


@pytest.mark.parametrize("marginals", ["exact", "pushed"])
@pytest.mark.parametrize("n", [1, 2])
def test_independent_ends_are_independent(marginals: str, n: int) -> None:
    """Products of functions of the two ends average to nothing; odd and even ones, 16 z-scores a case."""
    assert dependence(ends_of("independent", marginals, n)) < 5
    assert dependence(ends_of("fresh", marginals, n)) > 50  # the same statistic sees coupled ends at once


def dependence(ends: Ends) -> Tensor:
    """Largest z-score of the products of centred x_l, x_l² with centred x_r, x_r²."""
    left, right = (torch.cat([x, x**2], 1) for x in (ends.left, ends.right))
    products = (left - left.mean(0))[:, :, None] * (right - right.mean(0))[:, None, :]
    return (products.mean(0) / products.std(0) * math.sqrt(COUNT)).abs().max()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(2,), (4, 3)])
def test_minibatch_transport_only_reorders_and_never_lengthens(seed: int, shape: tuple[int, ...]) -> None:
    """From equal draws `ot` pairs the ends of `independent` anew, with the least summed squared distance."""
    x = torch.randn(32, *shape, generator=generator(seed, "x"), dtype=torch.float64)
    ends = {
        c: Matching(coupling=c, marginals="exact").ends(x, 2, SCHEDULE, generator(seed, "ends"))
        for c in ("independent", "ot")
    }
    assert torch.equal(ends["ot"].left, ends["independent"].left)
    rows = {c: sorted(map(tuple, e.right.flatten(1).tolist())) for c, e in ends.items()}
    assert rows["ot"] == rows["independent"]
    cost = {c: float((e.left - e.right).pow(2).sum()) for c, e in ends.items()}
    assert cost["ot"] < cost["independent"]
    swapped = ends["ot"].right.flatten(1)
    gain = torch.cdist(ends["ot"].left.flatten(1), swapped).pow(2)
    pairs = gain + gain.T - gain.diagonal()[:, None] - gain.diagonal()[None]
    assert pairs.min() > -1e-12  # no exchange of two partners shortens it


@pytest.mark.parametrize("n", [2, 3])
def test_common_noise_lowers_the_noise_of_the_target(n: int) -> None:
    """7 to 110 times on a mixture for small steps; here by half at the least, floor by floor."""
    noise = {}
    for coupling in ("fresh", "common"):
        x = GAUSSIAN.sample(COUNT, generator(3, "data"))
        problem = Matching("geodesic", coupling, "exact").draw(x, n, SCHEDULE, generator(3, "draw"))
        field = MixtureField(GAUSSIAN, SCHEDULE, n, "geodesic", coupling)
        noise[coupling] = float((field.velocity(problem.x, problem.t) - problem.target).pow(2).mean())
    assert noise["common"] < 0.5 * noise["fresh"]


def test_whole_clock_draws_the_ou_marginal_at_every_reading() -> None:
    """I_τ has the law at OU time -log cos(πτ/2): standardised by it, it is N(0, I)."""
    problem = draw_whole_clock(GAUSSIAN.sample(COUNT, generator(4, "data")), SCHEDULE, generator(4, "draw"))
    alpha = torch.cos(math.pi / 2 * problem.t)
    covariance = alpha[:, None, None] ** 2 * (GAUSSIAN.covariance - torch.eye(2)) + torch.eye(2)
    roots = torch.linalg.cholesky(covariance)
    centred = problem.x - alpha[:, None] * GAUSSIAN.mean
    whitened = torch.linalg.solve_triangular(roots, centred[..., None], upper=False)[..., 0]
    assert z_scores(whitened, torch.zeros(2), torch.eye(2, dtype=torch.float64)).abs().max() < 5


def test_whole_clock_gives_every_stretch_the_same_share_of_uniform_times() -> None:
    """Counts within 4.5 standard deviations of COUNT/N, and uniform within each by Kolmogorov and Smirnov."""
    t = draw_whole_clock(torch.zeros(COUNT, 1), SCHEDULE, generator(6, "draw")).t
    n = SCHEDULE.n_subflows
    for start, end in itertools.pairwise(SCHEDULE.clock):
        inside = t[(t >= start) & (t < end)]
        assert abs(len(inside) - COUNT / n) < 4.5 * math.sqrt(COUNT * (n - 1)) / n
        assert stats.kstest(((inside - start) / (end - start)).numpy(), "uniform").pvalue > 1e-4


def test_whole_clock_regresses_to_every_stretchs_own_velocity() -> None:
    """Per unit of the clock the common-noise geodesic of any stretch is one field: what lets weights be shared."""
    tau = torch.rand(64, generator=generator(5, "tau"), dtype=torch.float64)
    x = GAUSSIAN.sample(64, generator(5, "x"))
    whole = MixtureField(GAUSSIAN, Schedule(), 1, "trigonometric")(x, tau)
    for n in (1, 2, 3):
        stretch = MixtureField(GAUSSIAN, SCHEDULE, n, "geodesic", "common")
        torch.testing.assert_close(stretch(x, tau), whole, atol=1e-10, rtol=0)


@every_kind
@pytest.mark.parametrize("shape", [(3,), (4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_shape_and_dtype_of_the_samples(
    coupling: str, marginals: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(6, *shape, generator=generator(0, "x"), dtype=dtype)
    for alpha in (1.0, 2.0):
        matching = Matching("ot", coupling, marginals, time_alpha=alpha)
        problem = matching.draw(x, 2, SCHEDULE, generator(0, "draw"))
        assert problem.x.shape == problem.target.shape == x.shape
        assert problem.t.shape == (6,)
        assert {problem.x.dtype, problem.t.dtype, problem.target.dtype} == {dtype}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_geodesic_of_common_noise_runs_between_its_ends(n: int) -> None:
    """The closed form that is drawn is the interpolant between the two ends that are drawn alike."""
    x, matching = GAUSSIAN.sample(50, generator(0, "x")), Matching("geodesic", "common", "exact", time_alpha=2.0)
    problem = matching.draw(x, n, SCHEDULE, generator(1, "draw"))
    same = generator(1, "draw")
    left, right, angle = matching.ends(x, n, SCHEDULE, same)
    t = matching.times(len(x), x, same)
    between, target = interpolate("geodesic", left, right, t, angle)
    assert torch.equal(problem.t, t)
    torch.testing.assert_close(problem.x, between, atol=1e-12, rtol=0)
    torch.testing.assert_close(problem.target, target, atol=1e-12, rtol=0)


def test_common_noise_is_refused_on_pushed_samples() -> None:
    with pytest.raises(LFMError, match=r"flow\.coupling: common noise needs exact marginals.*flow\.marginals: exact"):
        Matching(coupling="common", marginals="pushed")


@pytest.mark.parametrize("coupling", ["independent", "ot"])
def test_pairing_across_conditions_is_refused(coupling: str) -> None:
    source = TensorSource(torch.zeros(4, 2), torch.zeros(4, 1))
    flow = LocalFlow([MLP(2, 8, 1, cond_dim=1)], Schedule())
    with pytest.raises(LFMError, match=rf"flow\.coupling: {coupling} pairs samples of different conditions"):
        Fitter(flow, source, FitOptions(matching=Matching(coupling=coupling)))


@pytest.mark.parametrize(
    "setting", [{"interpolant": "line"}, {"coupling": "Fresh"}, {"marginals": "ou"}, {"time_alpha": 0.0}]
)
def test_unknown_settings_are_refused_by_name(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(LFMError, match=rf"flow\.{name}: .*{value}"):
        Matching(**setting)
