"""Training of a table: what is watched, early stopping, resuming."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from lfm_policy.density.fitting import DensityFitter, Evaluation
from lfm_policy.flow import FitOptions, LocalFlow, Matching, Schedule, Solver
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.local_flow import log_standard_normal
from lfm_policy.nets import MLP
from tests.helpers.tensors import through_a_file

EXACT = Matching("geodesic", "common", "exact")
OPTIONS = FitOptions(steps=6, batch_size=16, learning_rate=1e-2, warmup_steps=2, matching=EXACT)
SETTINGS: dict[str, FitOptions] = {
    "exact, common": OPTIONS,
    "pushed": replace(OPTIONS, matching=Matching()),
    "shared start": replace(OPTIONS, shared_start=4),
    "warm start": replace(OPTIONS, warm_start=True),
    "shared weights": OPTIONS,
}
every_setting = pytest.mark.parametrize("setting", list(SETTINGS))


def rows(count: int, seed: int, dim: int = 2) -> torch.Tensor:
    x = torch.randn(count, dim, generator=generator(seed, "rows"))
    return x + 0.5 * x.flip(1) ** 2


def fitter_of(setting: str, patience: int | None = None, dim: int = 2) -> DensityFitter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = [MLP(dim, 8, 1) for _ in range(1 if setting == "shared weights" else 3)]
    flow = LocalFlow(fields, Schedule.geometric(3, 0.2, 1.5))
    return DensityFitter(flow, rows(60, 0, dim), rows(40, 1, dim), SETTINGS[setting], 3, patience, seed=3)


def run(fitter: DensityFitter) -> list[Evaluation]:
    seen: list[Evaluation] = []
    fitter.run(seen.append)
    return seen


@every_setting
def test_what_is_watched_is_the_likelihood_under_the_subflows_so_far(setting: str) -> None:
    """At the end of each sub-flow against log_prob of the shorter chain; of all stretches together, of one network."""
    fitter = fitter_of(setting)
    schedule = fitter.flow.schedule
    while not fitter.done:
        report, seen = fitter.step()
        if seen is None or not fitter.fitter.stage_done:
            continue
        x, solver = rows(40, 1), Solver("rk4", steps=4)
        if report.n == 0:
            alone = LocalFlow([fitter.flow.field(1)], schedule)
            want = alone.log_prob(x, solver=solver)
        else:
            end, log_det = fitter.flow.push_with_log_det(x, solver=solver, subflows=range(1, report.n + 1))
            want = log_standard_normal(end) + log_det[:, 0]
        assert seen.valid_nll == pytest.approx(-want.mean().item(), abs=1e-5)
        assert seen.valid_loss == pytest.approx(fitter.fitter.held_out_loss(draws=100), abs=1e-7)  # 4,000 in all


@every_setting
def test_losses_between_evaluations_are_averaged(setting: str) -> None:
    fitter, since, found = fitter_of(setting), [], []
    while not fitter.done:
        report, seen = fitter.step()
        since.append(report.loss)
        if seen:
            found.append((seen.loss, sum(since) / len(since), seen.n, seen.step))
            since = []
    want = []
    for n, steps in fitter.fitter.stages:  # three looks a stage, however long it is
        every = math.ceil(steps / 3)
        want += [(n, k) for k in range(1, steps + 1) if k % every == 0 or k == steps]
    assert [(n, step) for *_, n, step in found] == want
    assert all(got == pytest.approx(want) for got, want, *_ in found)


@every_setting
def test_a_subflow_that_no_longer_improves_ends_with_its_best_weights(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With figures of our choosing, 3, 2, 4, 5: patience 2 ends after the fourth with the weights of the second.

    The figure is the likelihood for the last sub-flow and for one network on all stretches, else the held-out loss.
    """
    figures = iter([3.0, 2.0, 4.0, 5.0] * 4)
    fitter = fitter_of(setting, patience=2)
    fitter.fitter.stages = [stage._replace(steps=100) for stage in fitter.fitter.stages]
    fitter.evaluations = 50
    fitter._begin()
    by_likelihood = (0, fitter.flow.n_subflows)
    monkeypatch.setattr(
        type(fitter._watched), "nll", lambda self, n: next(figures) if n in by_likelihood else -math.inf
    )
    monkeypatch.setattr(
        type(fitter.fitter),
        "held_out_loss",
        lambda self, draws: next(figures) if self.current.n not in by_likelihood else -math.inf,
    )
    kept: dict[int, dict[str, torch.Tensor]] = {}
    ended = []
    while not fitter.done:
        report, seen = fitter.step()
        field = fitter.flow.field(max(report.n, 1))
        if seen and 2.0 in (seen.valid_nll, seen.valid_loss):
            kept[report.n] = copy.deepcopy(field.state_dict())
        if fitter.fitter.stage_done:
            ended.append((report.n, report.step))
            assert all(torch.equal(value, kept[report.n][name]) for name, value in field.state_dict().items())
    assert [step for _, step in ended] == [8] * len(fitter.fitter.stages)


def test_patience_takes_the_best_even_where_it_never_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([1.0, 3.0, 2.0] * 3)
    fitter = fitter_of("exact, common", patience=5)
    monkeypatch.setattr(type(fitter.fitter), "held_out_loss", lambda self, draws: next(figures))
    first = None
    for _ in range(6):
        report, _ = fitter.step()
        if report.step == 2:
            first = copy.deepcopy(fitter.flow.field(1).state_dict())
    assert first is not None
    assert all(torch.equal(value, first[name]) for name, value in fitter.flow.field(1).state_dict().items())


@every_setting
@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_resumes_bit_for_bit_after_any_step(
    setting: str, patience: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfm_policy.density.fitting.DRAWS", 80)  # as exact with few
    whole = fitter_of(setting, patience)
    kept, after = [], []
    while not whole.done:
        kept.append((through_a_file(whole.state_dict()), through_a_file(whole.flow.state_dict())))
        after.append(whole.step())
    for k in {0, 3, 6, 7, len(kept) - 1} & set(range(len(kept))):  # inside a sub-flow, at and after a boundary
        other = fitter_of(setting, patience)
        other.flow.load_state_dict(kept[k][1])
        other.load_state_dict(kept[k][0])
        for report in after[k:]:
            assert other.step() == report
        assert other.done
        for got, want in zip(other.flow.parameters(), whole.flow.parameters(), strict=True):
            assert torch.equal(got, want)


def test_many_columns_are_watched_by_fixed_probes() -> None:
    """Two looks at the same weights give the same figure, near that of the exact trace."""
    fitter = fitter_of("exact, common", dim=20)
    assert fitter._watched is not None
    first = fitter._watched.nll(1)
    assert first == fitter._watched.nll(1)
    end, log_det = fitter.flow.push_with_log_det(fitter._watched.x, solver=Solver("rk4", steps=4), subflows=[1])
    exact = -(log_standard_normal(end) + log_det[:, 0]).mean().item()
    assert first == pytest.approx(exact, abs=0.2)
    assert first != exact


def test_without_held_out_rows_nothing_is_watched() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = LocalFlow([MLP(2, 8, 1)], Schedule())
    seen = run(DensityFitter(flow, rows(60, 0), None, OPTIONS, evaluations=2))
    assert [(s.step, s.valid_loss, s.valid_nll) for s in seen] == [(3, None, None), (6, None, None)]
