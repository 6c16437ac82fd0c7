"""A run that is broken off and resumed in a fresh Fitter continues bit for bit, wherever it was broken off."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Matching, Schedule, TensorSource
from lfm_policy.flow import named_generator as generator
from lfm_policy.nets import MLP
from tests.helpers.tensors import through_a_file

STEPS = 4
BASE = FitOptions(steps=STEPS, batch_size=7, learning_rate=1e-2, warmup_steps=2, push_batch_size=8)
SETTINGS: dict[str, FitOptions] = {
    "pushed": BASE,
    "shared start": replace(BASE, shared_start=3),
    "warm start": replace(BASE, warm_start=True),
    "initial diffusion": replace(BASE, initial_diffusion=0.05),
    "exact, common": replace(BASE, matching=Matching("geodesic", "common", "exact")),
    "everything": replace(BASE, shared_start=3, warm_start=True, initial_diffusion=0.1, max_grad_norm=0.1),
    "shared weights": replace(BASE, shared_start=2),
}
every_setting = pytest.mark.parametrize("setting", list(SETTINGS))


def fresh_flow(setting: str) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        count = 1 if setting == "shared weights" else 3
        return LocalFlow([MLP(2, 8, 1, cond_dim=1) for _ in range(count)], Schedule.geometric(3, 0.3, 1.2))


def sources() -> tuple[TensorSource, TensorSource]:
    def source(seed: int, count: int) -> TensorSource:
        x = torch.randn(count, 2, generator=generator(seed, "x")).cumsum(1)
        return TensorSource(x, x[:, :1] ** 2)

    return source(0, 20), source(1, 9)


def fitter_of(setting: str, flow: LocalFlow) -> Fitter:
    train, valid = sources()
    return Fitter(flow, train, SETTINGS[setting], seed=5, valid=valid)


def everything(fitter: Fitter) -> list[Tensor]:
    """All weights, and all that the optimiser keeps, of a fitter."""
    state = fitter.state_dict()
    moments = [value for entry in state["optimizer"]["state"].values() for value in entry.values()]
    return [*fitter.flow.state_dict().values(), *state["network"].values(), *moments]


def run(fitter: Fitter, steps: int) -> list[tuple]:
    return [fitter.step() for _ in range(steps)]


@every_setting
def test_resumed_run_continues_bit_for_bit(setting: str) -> None:
    """Broken off before the first step, after every single one (every boundary among them) and after the last."""
    whole = fitter_of(setting, fresh_flow(setting))
    reports, kept = [], [(copy.deepcopy(whole.state_dict()), copy.deepcopy(whole.flow.state_dict()))]
    while not whole.done:
        reports.append(whole.step())
        kept.append((through_a_file(whole.state_dict()), through_a_file(whole.flow.state_dict())))
    total = whole.total_steps
    assert len(reports) == total == (3 * STEPS + SETTINGS[setting].shared_start)
    for k, (state, weights) in enumerate(kept):
        flow = fresh_flow(setting)
        flow.load_state_dict(weights)
        resumed = fitter_of(setting, flow)
        resumed.load_state_dict(state)
        assert resumed.steps_done == k
        assert run(resumed, total - k) == reports[k:]
        assert resumed.done
        for got, want in zip(everything(resumed), everything(whole), strict=True):
            assert torch.equal(got, want), k
        assert resumed.held_out_loss() == whole.held_out_loss()


def test_state_can_be_loaded_into_a_fitter_that_has_moved_on() -> None:
    """Its samples have been pushed already: they must not be pushed twice."""
    fitter = fitter_of("pushed", fresh_flow("pushed"))
    run(fitter, STEPS + 1)
    state, weights = through_a_file(fitter.state_dict()), through_a_file(fitter.flow.state_dict())
    reports = run(fitter, 2 * STEPS - 1)
    fitter.flow.load_state_dict(weights)
    fitter.load_state_dict(state)
    assert run(fitter, 2 * STEPS - 1) == reports


def test_resuming_is_not_restarting() -> None:
    """The law above can fail: without the optimiser's state the next steps differ."""
    whole = fitter_of("pushed", fresh_flow("pushed"))
    run(whole, 2)
    state, weights = through_a_file(whole.state_dict()), through_a_file(whole.flow.state_dict())
    state["optimizer"]["state"] = {}
    flow = fresh_flow("pushed")
    flow.load_state_dict(weights)
    resumed = fitter_of("pushed", flow)
    resumed.load_state_dict(state)
    assert run(resumed, 2) != run(whole, 2)


def test_seed_is_all_that_a_run_depends_on() -> None:
    """Neither the global generator nor how often held-out losses are taken."""
    reports = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        fitter = fitter_of("everything", fresh_flow("everything"))
        steps = []
        while not fitter.done:
            steps.append(fitter.step())
            if noise:
                fitter.held_out_loss()
                torch.rand(3)
        reports.append(steps)
    assert reports[0] == reports[1]
    train, valid = sources()
    other = Fitter(fresh_flow("everything"), train, SETTINGS["everything"], seed=6, valid=valid)
    assert run(other, 1) != reports[0][:1]
