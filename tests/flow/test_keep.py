"""Where pushed samples are kept is the caller's choice: it changes nothing, and what is kept is not made again."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Matching, Push, Schedule, Solver, StepReport, TensorSource
from lfm_policy.flow.fit import in_memory
from lfm_policy.nets import MLP

COUNTS = (22, 9)  # samples to train on, and held out
PIECES = (3, 2)  # of 8 samples at most
OPTIONS = FitOptions(
    steps=3, batch_size=6, learning_rate=1e-2, warmup_steps=1, push_solver=Solver("midpoint", 1), push_batch_size=8
)
SETTINGS = {
    "pushed": OPTIONS,
    "diffused": replace(OPTIONS, initial_diffusion=0.1),
    "shared start": replace(OPTIONS, shared_start=2),
    "warm start": replace(OPTIONS, warm_start=True),
}
every_setting = pytest.mark.parametrize("setting", list(SETTINGS))
Piece = tuple[int, int, int]  # n, split, number


class Counting(MLP):
    """Counts its evaluations without gradient: those of pushes."""

    evaluations = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        Counting.evaluations += not torch.is_grad_enabled()
        return super().forward(x, t, cond)


class Still(nn.Module):
    """v = 0: what is pushed stays where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return x * self.weight * 0


class Adding(nn.Module):
    """v = c: a push moves a sample by its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return cond + x * self.weight * 0


@dataclass
class Keeper:
    """Keeps samples by (n, split), and notes what it was asked for and which pieces were made."""

    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)
    made: list[Piece] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)

    def __call__(self, push: Push) -> Tensor:
        place = (push.n, push.split)
        self.asked.append(place)
        self.pushes.append(push)
        if place not in self.kept:
            pieces = []
            for i in range(push.n_pieces):
                pieces.append(push.make(i))
                self.made.append((*place, i))  # a piece is made when those it is made from have been
            self.kept[place] = torch.cat(pieces)
        return self.kept[place]


def data(split: int, count: int) -> TensorSource:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(split)).cumsum(1)
    return TensorSource(x, x.flip(1) ** 2)


def chain(make: Callable[[], nn.Module] = lambda: Counting(2, 8, 1, cond_dim=2)) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalFlow([make() for _ in range(4)], Schedule((0.2, 0.3, 0.4)))


def fitter(options: FitOptions, keep: Callable[[Push], Tensor], flow: LocalFlow | None = None) -> Fitter:
    sources = [data(split, count) for split, count in enumerate(COUNTS)]
    return Fitter(flow or chain(), sources[0], options, seed=5, valid=sources[1], keep=keep)


def steps(trained: Fitter, count: int) -> list[tuple[StepReport, float | None]]:
    return [(trained.step(), trained.held_out_loss()) for _ in range(count)]


def stopped(setting: str, stages: int, keep: Callable[[Push], Tensor]) -> tuple[dict[str, Any], LocalFlow]:
    """State and flow after so many steps beyond the end of so many sub-flows."""
    options = SETTINGS[setting]
    trained = fitter(options, keep)
    steps(trained, options.shared_start + stages * options.steps + 1)
    return copy.deepcopy(trained.state_dict()), copy.deepcopy(trained.flow)


@every_setting
def test_samples_kept_elsewhere_give_the_same_training(setting: str, tmp_path: Path) -> None:
    """Files of numpy's, read where they lie: reports, held-out losses and weights are bit for bit the same."""

    def in_files(push: Push) -> Tensor:
        file = tmp_path / f"{push.n}_{push.split}.npy"
        np.save(file, np.concatenate([push.make(i).numpy() for i in range(push.n_pieces)]))
        return torch.from_numpy(np.load(file, mmap_mode="c"))

    here, there = fitter(SETTINGS[setting], in_memory), fitter(SETTINGS[setting], in_files)
    assert steps(here, here.total_steps) == steps(there, here.total_steps)
    for a, b in zip(here.flow.state_dict().values(), there.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert len(list(tmp_path.iterdir())) == 3 * 2


@every_setting
def test_each_piece_is_made_once_in_order(setting: str) -> None:
    """A push says truly what it makes: its sub-flow, its network, its number of samples and pieces, for both splits."""
    keeper = Keeper()
    trained = fitter(SETTINGS[setting], keeper)
    steps(trained, trained.total_steps)
    places = list(itertools.product((1, 2, 3), (0, 1)))  # samples of p_N would be of no use
    assert keeper.asked == places
    assert keeper.made == [(n, split, i) for n, split in places for i in range(PIECES[split])]
    for push in keeper.pushes:
        assert push.network is trained.flow.field(push.n)
        assert (push.count, push.n_pieces) == (COUNTS[push.split], PIECES[push.split])
        assert len(keeper.kept[push.n, push.split]) == push.count


@every_setting
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_resumed_run_asks_for_its_own_samples_only_and_makes_none_that_are_kept(setting: str, stages: int) -> None:
    keeper = Keeper()
    state, flow = stopped(setting, stages, keeper)
    resumed = fitter(SETTINGS[setting], keeper, flow)
    keeper.asked, keeper.made, Counting.evaluations = [], [], 0
    resumed.load_state_dict(state)
    assert keeper.asked == [(stages, 0), (stages, 1)]
    assert keeper.made == []
    assert Counting.evaluations == 0
    assert torch.equal(resumed.source.batch(torch.arange(COUNTS[0]))[0], keeper.kept[stages, 0])


@every_setting
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_resumed_run_makes_again_what_is_not_kept(setting: str, stages: int) -> None:
    """All of p_1 before p_2 and so on, each piece once, and the same samples as before."""
    before, after = Keeper(), Keeper()
    state, flow = stopped(setting, stages, before)
    resumed = fitter(SETTINGS[setting], after, flow)
    resumed.load_state_dict(state)
    for split in range(2):
        made = [piece for piece in after.made if piece[1] == split]
        assert made == [(n, split, i) for n in range(1, stages + 1) for i in range(PIECES[split])]
    assert set(after.kept) == set(itertools.product(range(1, stages + 1), (0, 1)))
    for place, samples in after.kept.items():
        assert torch.equal(samples, before.kept[place])


def test_a_resumed_run_makes_again_from_the_last_samples_that_are_kept() -> None:
    """p_3 from p_2, which is there; of p_1, which is not, nothing is asked."""
    keeper = Keeper()
    state, flow = stopped("diffused", 3, keeper)
    for split in range(2):
        del keeper.kept[1, split], keeper.kept[3, split]
    resumed = fitter(SETTINGS["diffused"], keeper, flow)
    keeper.asked, keeper.made = [], []
    resumed.load_state_dict(state)
    assert keeper.asked == [(3, 0), (2, 0), (3, 1), (2, 1)]
    assert keeper.made == [(3, split, i) for split in range(2) for i in range(PIECES[split])]


def test_a_fitter_that_goes_back_takes_the_data_before_the_first_push() -> None:
    keeper = Keeper()
    trained = fitter(OPTIONS, keeper)
    state, flow = copy.deepcopy(trained.state_dict()), copy.deepcopy(trained.flow.state_dict())
    first = steps(trained, 4)
    trained.flow.load_state_dict(flow)
    trained.load_state_dict(state)
    assert torch.equal(trained.source.batch(torch.arange(COUNTS[0]))[0], data(0, COUNTS[0]).samples)
    assert steps(trained, 4) == first


def test_conditions_and_order_stay_with_samples() -> None:
    """Sample i of p_n is sample i of the data moved n times by its own condition, which it still has."""
    trained = fitter(OPTIONS, in_memory, chain(Adding))
    for n in range(4):
        lengths = torch.tensor(trained.flow.schedule.clock).diff()
        for split, source in enumerate((trained.source, trained.valid)):
            assert source is not None
            origin = data(split, COUNTS[split])
            assert origin.conditions is not None
            index = torch.randperm(COUNTS[split], generator=torch.Generator().manual_seed(n))
            x, cond = source.batch(index)
            assert cond is not None
            assert torch.equal(cond, origin.conditions[index])
            torch.testing.assert_close(x, origin.samples[index] + lengths[:n].sum() * cond)
        if n < 3:
            steps(trained, OPTIONS.steps if n else OPTIONS.steps + 1)


@pytest.mark.parametrize("delta", [0.0, 0.2])
def test_data_are_diffused_once_before_the_first_push(delta: float) -> None:
    """With sub-flows that stand still p_1 is the diffused data, with each piece's own noise, and p_3 is p_1."""
    keeper = Keeper()
    x = torch.full((4000, 1), 2.0)
    options = replace(OPTIONS, initial_diffusion=delta, push_batch_size=1000)
    trained = Fitter(chain(Still), TensorSource(x), options, valid=TensorSource(x), keep=keeper)
    steps(trained, trained.total_steps)
    assert keeper.made == [(n, split, i) for n in (1, 2, 3) for split in (0, 1) for i in range(4)]
    noises = []
    for split in range(2):
        for n in (2, 3):
            assert torch.equal(keeper.kept[n, split], keeper.kept[1, split])
        moved = keeper.kept[1, split] - math.exp(-delta) * x
        if delta == 0:
            assert torch.equal(moved, torch.zeros_like(moved))
            continue
        noises += (moved / math.sqrt(1 - math.exp(-2 * delta))).split(1000)
    if delta:
        correlation = torch.corrcoef(torch.cat(noises, dim=1).T)
        assert (correlation - torch.eye(8)).abs().max() < 5 / math.sqrt(1000)
        together = torch.cat(noises)
        assert together.mean().abs() < 5 / math.sqrt(8000)
        assert together.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * 8000))


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, matching=Matching("geodesic", "common", "exact")),
        replace(OPTIONS, matching=Matching("geodesic", "fresh", "exact"), initial_diffusion=0.1),
    ],
)
def test_nothing_is_kept_where_nothing_is_pushed(options: FitOptions) -> None:
    keeper = Keeper()
    trained = fitter(options, keeper)
    steps(trained, trained.total_steps)
    assert keeper.asked == []


def test_one_network_for_all_sub_flows_pushes_nothing() -> None:
    keeper = Keeper()
    flow = LocalFlow([Counting(2, 8, 1, cond_dim=2)], Schedule((0.2, 0.3, 0.4)))
    trained = fitter(OPTIONS, keeper, flow)
    steps(trained, trained.total_steps)
    assert keeper.asked == []


def test_samples_are_moved_to_the_networks_device() -> None:
    """torch's device `meta` stands in for another one: data and kept samples lie on the CPU, networks do not."""
    devices = set()

    def keep(push: Push) -> Tensor:
        devices.update(push.make(i).device.type for i in range(push.n_pieces))
        return torch.zeros(push.count, 2)  # as a keeper on a CPU's disk would give them

    elsewhere = fitter(SETTINGS["diffused"], keep, chain().to("meta"))
    elsewhere.load_state_dict({**elsewhere.state_dict(), "stage": 2})
    assert devices == {"meta"}
    assert elsewhere.source.batch(torch.arange(3))[0].device.type == "cpu"
    with pytest.raises(
        RuntimeError, match=r"item\(\) cannot be called on meta"
    ):  # as far as its loss, which has no value there
        elsewhere.step()
