"""What a training step does: learning rate, averaging, guards, held-out loss and initial diffusion."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import FitOptions, Fitter, LFMError, LocalFlow, Matching, Schedule, TensorSource, fit_local_flow
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.ema import EMA, ema_decay
from lfm_policy.flow.optimization import learning_rate
from lfm_policy.nets import MLP

SCHEDULE = Schedule((0.3, 0.3))
OPTIONS = FitOptions(steps=5, batch_size=8, learning_rate=1e-2, warmup_steps=2)


def chain(count: int = 3) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalFlow([MLP(2, 8, 1) for _ in range(count)], SCHEDULE)


def samples(count: int = 24) -> Tensor:
    return torch.randn(count, 2, generator=generator(0, "x"))


def test_average_of_a_constant_weight_is_its_closed_form() -> None:
    """From 0 towards w: w (1 - Π d_k); buffers are copied as they are."""
    average, current = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    nn.init.zeros_(average.weight)
    nn.init.constant_(current.weight, 2.0)
    current.running_mean.fill_(7.0)
    left, ema = 1.0, EMA(average, current)
    for decay in (0.0, 0.3, 0.9, 0.5):
        ema.update(decay)
        left *= decay
        torch.testing.assert_close(average.weight.data, torch.full((3,), 2.0 * (1 - left)).double())
    assert torch.equal(average.running_mean, current.running_mean)
    assert (current.weight == 2.0).all()


def test_averages_decay_begins_at_nothing_and_is_capped() -> None:
    decays = [ema_decay(k) for k in range(300_000)]
    assert decays[0] == 0  # the random weights of the start leave no trace
    assert all(a <= b for a, b in itertools.pairwise(decays))
    assert decays[-1] == 0.9999
    assert decays[999] == pytest.approx(1 - 1000**-0.75)
    assert ema_decay(10, power=2 / 3, maximum=0.5) == 0.5


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_learning_rate_warms_up_and_follows_the_cosine_to_zero(warmup: int) -> None:
    options, steps = FitOptions(learning_rate=3.0, warmup_steps=warmup), 110
    rates = [learning_rate(options, k, steps) for k in range(steps + 1)]
    assert rates[:warmup] == pytest.approx([3.0 * (k + 1) / warmup for k in range(warmup)])
    assert rates[warmup] == pytest.approx(3.0)
    middle = warmup + (steps - warmup) // 2
    if not warmup % 2:
        assert rates[middle] == pytest.approx(1.5)
    assert 0 < rates[steps - 1] < 0.01
    assert rates[steps] == pytest.approx(0, abs=1e-12)  # where the step after the last would be
    assert all(a >= b for a, b in itertools.pairwise(rates[warmup:]))


def test_learning_rate_may_stay_constant_and_warm_up_never_takes_more_than_half() -> None:
    constant = FitOptions(learning_rate=3.0, warmup_steps=4, lr_decay="constant")
    assert [learning_rate(constant, k, 8) for k in range(8)] == pytest.approx([0.75, 1.5, 2.25, 3, 3, 3, 3, 3])
    long = FitOptions(learning_rate=1.0, warmup_steps=500)
    assert max(learning_rate(long, k, 10) for k in range(10)) == 1.0
    assert learning_rate(long, 0, 1) == 1.0


def test_reports_count_every_stage_from_one() -> None:
    heard = []
    options = replace(OPTIONS, shared_start=2)
    fit_local_flow(chain(), samples(), options, on_step=heard.append)
    assert [(r.n, r.step) for r in heard] == [(0, 1), (0, 2), *((n, k) for n in (1, 2, 3) for k in range(1, 6))]
    assert all(math.isfinite(r.loss) and r.learning_rate > 0 for r in heard)
    assert heard[2].learning_rate == heard[7].learning_rate  # each network has its own schedule


@pytest.mark.parametrize("shared", [False, True])
def test_a_loss_that_is_not_finite_stops_with_its_place_and_remedy(shared: bool) -> None:
    flow = chain(1 if shared else 3)
    fitter = Fitter(flow, TensorSource(samples()), OPTIONS)
    for _ in range(7):
        fitter.step()
    next(fitter.network.parameters()).data.fill_(math.nan)
    place = "all stretches together is nan at step 8" if shared else "sub-flow 2 is nan at step 3"
    with pytest.raises(LFMError, match=rf"loss of {place}; lower learning_rate \(0\.01\)"):
        fitter.step()
    assert all(weight.isfinite().all() for weight in flow.parameters())  # the averages are still good


def test_flow_holds_the_average_and_only_the_current_subflow_changes() -> None:
    flow = chain()
    before = copy.deepcopy(flow.state_dict())
    fitter = Fitter(flow, TensorSource(samples()), OPTIONS)
    fitter.step()
    for got, want in zip(flow.field(1).parameters(), fitter.network.parameters(), strict=True):
        assert torch.equal(got, want)  # decay 0 at the first step
    fitter.step()
    assert not torch.equal(next(flow.field(1).parameters()), next(fitter.network.parameters()))
    changed = {name.split(".")[1] for name, value in flow.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0"}


@pytest.mark.parametrize("warm", [False, True])
def test_warm_start_begins_with_the_weights_before(warm: bool) -> None:
    flow = chain()
    fresh = copy.deepcopy(flow.state_dict())
    still = replace(OPTIONS, learning_rate=1e-30, warm_start=warm)
    fitter = Fitter(flow, TensorSource(samples()), replace(still, steps=1))
    fitter.step()
    fitter.flow.field(1).layers[0].weight.data.fill_(0.5)
    fitter.step()
    want = torch.full((8, 3), 0.5) if warm else fresh["fields.1.layers.0.weight"]
    torch.testing.assert_close(flow.field(2).layers[0].weight.data, want)


def test_shared_start_gives_every_subflow_the_same_weights() -> None:
    flow = chain()
    fitter = Fitter(flow, TensorSource(samples()), replace(OPTIONS, shared_start=3))
    for _ in range(3):
        fitter.step()
    shared = copy.deepcopy(flow.field(1).state_dict())
    fitter.step()
    for n in (2, 3):
        assert all(torch.equal(flow.field(n).state_dict()[name], value) for name, value in shared.items())


def test_the_averaged_weights_push_the_data_on() -> None:
    """And each sample keeps its condition."""
    flow = LocalFlow([_IgnoresCond(field) for field in chain().fields], SCHEDULE)
    x = samples(10)
    fitter = Fitter(flow, TensorSource(x, torch.arange(10.0)[:, None]), replace(OPTIONS, push_batch_size=4), seed=1)
    for _ in range(5):
        fitter.step()
    pushed = flow.push(x, solver=OPTIONS.push_solver, subflows=[1])
    fitter.step()
    got, cond = fitter.source.batch(torch.tensor([7, 2]))
    torch.testing.assert_close(got, pushed[[7, 2]])
    assert cond is not None
    assert cond.flatten().tolist() == [7.0, 2.0]


@pytest.mark.parametrize("marginals", ["pushed", "exact"])
def test_initial_diffusion_replaces_the_data_by_their_diffusion(marginals: str) -> None:
    """Atoms at 0 become N(0, σ_δ² I) for every sub-flow and are diffused once only.

    The second moment of I_t at n, from what the network was asked: σ_l² (1 - t)² + … is closed for OT ends.
    """
    delta, count = 0.4, 4000
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {1: [], 2: [], 3: []}
    flow = LocalFlow([_Listener(seen[n]) for n in (1, 2, 3)], SCHEDULE)
    options = replace(OPTIONS, steps=1, batch_size=count, learning_rate=1e-30, matching=Matching(marginals=marginals))
    fit_local_flow(flow, torch.zeros(count, 2), replace(options, initial_diffusion=delta, push_batch_size=count))
    for n in (1, 2, 3):
        asked = [(x, t) for x, t in seen[n] if t.unique().numel() > 1]  # training, not the push's single times
        x, tau = asked[0]
        start, end = SCHEDULE.clock[n - 1 : n + 1]
        t = ((tau - start) / (end - start))[:, None]
        # the network moves nothing, so pushed samples keep the variance of p_0
        left = 1 - math.exp(-2 * (delta + (SCHEDULE.times[n - 1] if marginals == "exact" else 0)))
        r = math.exp(-SCHEDULE.gamma(n))
        variance = (1 - t + r * t) ** 2 * left + t**2 * (1 - r**2)
        z2 = x**2 / variance  # chi-square: mean 1, standard error sqrt(2 / 2M)
        assert abs(z2.mean().item() - 1) < 4.5 / math.sqrt(count)


def test_initial_diffusion_of_pushed_samples_is_fresh_for_each_and_a_function_of_the_seed() -> None:
    """Atoms come out all different, over the batches of the push and the split too."""
    options = replace(OPTIONS, initial_diffusion=0.4, push_batch_size=5)
    pushed = []
    for seed in (0, 0, 1):
        fitter = Fitter(chain(), TensorSource(torch.zeros(24, 2)), options, seed, TensorSource(torch.zeros(12, 2)))
        for _ in range(OPTIONS.steps + 1):
            fitter.step()
        assert fitter.valid is not None
        parts = [source.batch(torch.arange(len(source)))[0] for source in (fitter.source, fitter.valid)]
        pushed.append(torch.cat(parts))
    assert torch.equal(pushed[0], pushed[1])
    assert len(torch.cat([pushed[0], pushed[2]]).unique(dim=0)) == 2 * 36


def test_held_out_loss_is_that_of_the_average_on_the_same_draws() -> None:
    flow, valid = chain(), TensorSource(samples(11))
    fitter = Fitter(flow, TensorSource(samples()), replace(OPTIONS, push_batch_size=4), valid=valid)
    first = fitter.held_out_loss()
    assert fitter.held_out_loss() == first
    fitter.network.layers[0].weight.data.fill_(100.0)  # not the average
    assert fitter.held_out_loss() == first
    flow.field(1).layers[-1].bias.data.fill_(100.0)
    assert fitter.held_out_loss() == pytest.approx((100 * SCHEDULE.clock[1]) ** 2, rel=0.1)
    assert Fitter(chain(), TensorSource(samples()), OPTIONS).held_out_loss() is None


def test_gradients_are_clipped_where_asked() -> None:
    """The first Adam step is blind to the gradient's scale, so the optimiser's second moment shows the norm."""
    norms = {}
    for limit in (None, 1e-3):
        fitter = Fitter(chain(), TensorSource(100 * samples()), replace(OPTIONS, max_grad_norm=limit))
        fitter.step()
        moments = [
            entry["exp_avg"] / (1 - OPTIONS.beta1) for entry in fitter.descent.optimizer.state_dict()["state"].values()
        ]
        norms[limit] = math.sqrt(sum(float(m.pow(2).sum()) for m in moments))
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 1


@pytest.mark.parametrize("subflows", [[2], [3, 1]])
def test_some_subflows_may_be_trained_alone_on_exact_marginals(subflows: list[int]) -> None:
    exact = replace(OPTIONS, matching=Matching(coupling="common", marginals="exact"))
    whole, part = chain(), chain()
    fit_local_flow(whole, samples(), exact, seed=2)
    fitter = Fitter(part, TensorSource(samples()), exact, seed=2, subflows=subflows)
    while not fitter.done:
        fitter.step()
    for n in (1, 2, 3):
        for got, want in zip(part.field(n).parameters(), whole.field(n).parameters(), strict=True):
            assert torch.equal(got, want) == (n in subflows)
    with pytest.raises(LFMError, match=r"subflows: .*flow\.marginals: exact"):
        Fitter(chain(), TensorSource(samples()), OPTIONS, subflows=subflows)


@pytest.mark.parametrize(
    "setting",
    [{"steps": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"shared_start": -1}, {"initial_diffusion": -0.1}],
)
def test_impossible_options_are_refused_by_name(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(LFMError, match=f"{name}: {value}"):
        FitOptions(**setting)


def test_no_samples_are_refused() -> None:
    with pytest.raises(LFMError, match="samples: there are none"):
        fit_local_flow(chain(), torch.zeros(0, 2), OPTIONS)


class _IgnoresCond(nn.Module):
    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.field(x, tau)


class _Listener(nn.Module):
    """Moves nothing and keeps what it is asked; copies of it keep it in the same list."""

    def __init__(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.seen, self.weight = seen, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        self.seen.append((x.detach(), tau.detach()))
        return 0 * x + 0 * self.weight

    def __deepcopy__(self, memo: dict) -> _Listener:
        return _Listener(self.seen)
