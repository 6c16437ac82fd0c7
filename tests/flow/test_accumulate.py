"""A batch taken in pieces gives the step of the whole batch, with the memory of one piece."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import (
    Distiller,
    DistillOptions,
    FitOptions,
    Fitter,
    LFMError,
    LocalFlow,
    Matching,
    Schedule,
    Solver,
    TensorSource,
)
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.source import parts
from lfm_policy.nets import MLP
from tests.helpers.tensors import normal

BATCH = 10
FIT = FitOptions(steps=2, batch_size=BATCH, learning_rate=1e-2, warmup_steps=1, push_solver=Solver("euler", 1))
DISTILL = DistillOptions(
    steps=4, batch_size=BATCH, learning_rate=1e-2, warmup_steps=1, teacher_solver=Solver("euler", 1)
)
every_number = pytest.mark.parametrize("pieces", [2, 3, 7, BATCH + 3])
every_kind = pytest.mark.parametrize(
    ("clip", "cond_dim"),
    [(None, 0), (None, 2), (0.005, 2)],
    ids=["unconditional", "conditional", "conditional, clipped"],
)
close = {"rtol": 1e-12, "atol": 1e-12}


class Noting(MLP):
    """Keeps the rows and conditions of the evaluations that are differentiated, and the saved tensors then alive."""

    rows: list[int] = []  # noqa: RUF012
    conditions: list[Tensor | None] = []  # noqa: RUF012
    alive: list[int] = []  # noqa: RUF012
    saved: weakref.WeakSet[Saved] = weakref.WeakSet()  # noqa: RUF012

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            Noting.rows.append(len(x))
            Noting.conditions.append(cond)
            Noting.alive.append(sum(saved.tensor.numel() for saved in Noting.saved))
        return super().forward(x, t, cond)


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


@contextmanager
def noting() -> Iterator[list[int]]:
    """Elements that a graph holds, each time that it comes to hold one more."""
    held: list[int] = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        Noting.saved.add(saved)
        held.append(sum(other.tensor.numel() for other in Noting.saved))
        return saved

    Noting.rows, Noting.conditions, Noting.alive = [], [], []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        yield held


def flow(cond_dim: int = 0, network: type[MLP] = MLP, count: int = 2) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = [network(2, 8, 1, cond_dim=cond_dim).double() for _ in range(count)]
    return LocalFlow(fields, Schedule((0.4,)))


def fitter(options: FitOptions, cond_dim: int = 0, network: type[MLP] = MLP, count: int = 2) -> Fitter:
    conditions = normal(24, cond_dim, seed=1) if cond_dim else None
    return Fitter(flow(cond_dim, network, count), TensorSource(normal(24, 2), conditions), options)


def distiller(options: DistillOptions, cond_dim: int = 0, network: type[MLP] = MLP) -> Distiller:
    conditions = normal(24, cond_dim, seed=1) if cond_dim else None
    return Distiller(flow(cond_dim), 2, (2,), options, conditions, list(flow(cond_dim, network).fields))


def gradients(network: nn.Module) -> list[Tensor]:
    """Adam hides a gradient's scale, so steps alone would not show a wrong one."""
    found = [weight.grad for weight in network.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in found)
    return [grad.clone() for grad in found if grad is not None]


def norm_of(tensors: list[Tensor]) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()


@every_kind
@every_number
@pytest.mark.parametrize("setting", ["pushed", "exact", "whole clock"])
def test_pieces_of_a_batch_give_a_sub_flows_step(setting: str, pieces: int, clip: float | None, cond_dim: int) -> None:
    """Losses, gradients and weights of every step are the whole batch's up to rounding."""
    options = replace(FIT, max_grad_norm=clip)
    if setting == "exact":
        options = replace(options, matching=Matching("geodesic", "common", "exact"))
    count = 1 if setting == "whole clock" else 2
    whole = fitter(options, cond_dim, count=count)
    broken = fitter(replace(options, accumulate=pieces), cond_dim, count=count)
    while not whole.done:
        want, got = whole.step(), broken.step()
        assert got.loss == pytest.approx(want.loss, rel=1e-12)
        assert got._replace(loss=want.loss) == want
        torch.testing.assert_close(gradients(broken.network), gradients(whole.network), **close)
        # it was clipped once, over the whole batch
        assert clip is None or norm_of(gradients(broken.network)) == pytest.approx(clip, rel=1e-3)
        torch.testing.assert_close(broken.network.state_dict(), whole.network.state_dict(), **close)
        torch.testing.assert_close(broken.flow.state_dict(), whole.flow.state_dict(), **close)
    assert broken.done


@every_kind
@every_number
@pytest.mark.parametrize("inputs", ["teacher", "student"])
def test_pieces_of_a_batch_give_the_students_step(inputs: str, pieces: int, clip: float | None, cond_dim: int) -> None:
    options = replace(DISTILL, max_grad_norm=clip, student_inputs=inputs)
    whole, broken = distiller(options, cond_dim), distiller(replace(options, accumulate=pieces), cond_dim)
    while not whole.done:
        want, got = whole.step(), broken.step()
        assert got.losses == pytest.approx(want.losses, rel=1e-12)
        assert got._replace(losses=want.losses) == want
        torch.testing.assert_close(gradients(broken._trained), gradients(whole._trained), **close)
        for field in broken._trained.fields:  # each is clipped by itself
            assert clip is None or norm_of(gradients(field)) == pytest.approx(clip, rel=1e-3)
        torch.testing.assert_close(broken.state_dict()["networks"], whole.state_dict()["networks"], **close)
        torch.testing.assert_close(broken.students.state_dict(), whole.students.state_dict(), **close)
    assert broken.done


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_sub_flows_loss_and_gradient_are_those_of_the_formula(pieces: int) -> None:
    """‖v(I_t, t, c) - dI_t/dt‖², mean over samples and elements, of the step's own draw."""
    trained = fitter(replace(FIT, accumulate=pieces), cond_dim=2)
    network, schedule = copy.deepcopy(trained.network), trained.flow.schedule
    x, cond = trained.source.batch(trained.order(0))
    problem = FIT.matching.draw(x, 1, schedule, generator(0, "train", 1, 0))
    length = schedule.clock[1]
    want = (length * network(problem.x, length * problem.t, cond) - problem.target).square().sum() / (BATCH * 2)
    want.backward()
    assert trained.step().loss == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(gradients(trained.network), gradients(network), **close)


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_students_losses_are_those_of_the_formula(pieces: int) -> None:
    """‖x + f(x) - target‖², each student's mean over samples and elements."""
    trained = distiller(replace(DISTILL, accumulate=pieces))
    students = trained.students  # EMA weights, which before the first step are those that are trained
    pairs = trained.pairs(0)
    want = [
        (students.step(n, x) - target).square().sum().item() / (BATCH * 2)
        for n, x, target in zip((1, 2), pairs.inputs, pairs.targets, strict=True)
    ]
    assert trained.step().losses == pytest.approx(want, rel=1e-12)


@every_number
def test_only_one_piece_has_a_graph_at_a_time(pieces: int) -> None:
    """Nothing that an earlier piece saved is alive when the next is evaluated; conditions come with their samples."""
    with noting():
        trained = fitter(replace(FIT, accumulate=pieces), 2, Noting)
        trained.step()
    count = min(pieces, BATCH)
    assert sum(Noting.rows) == BATCH
    assert len(Noting.rows) == count
    assert max(Noting.rows) == -(-BATCH // count)
    assert Noting.alive == [0] * count
    seen = [cond for cond in Noting.conditions if cond is not None]
    assert torch.equal(torch.cat(seen), normal(24, 2, seed=1)[trained.order(0)])


def test_a_piece_of_the_students_batch_has_a_graph_of_its_own() -> None:
    """Both students of a piece are differentiated together, and nothing of the piece before is left."""
    with noting():
        distiller(replace(DISTILL, accumulate=5), network=Noting).step()
    assert Noting.rows == [2] * 10
    assert Noting.alive[::2] == [0] * 5
    assert min(Noting.alive[1::2]) > 0  # the law can fail: what is counted is there


@pytest.mark.parametrize("pieces", [2, 5])
def test_memory_of_a_step_is_that_of_a_piece(pieces: int) -> None:
    """The most that graphs hold in a step, weights among it, is what a step on a batch of a piece's size holds."""

    def most(batch_size: int, accumulate: int) -> int:
        with noting() as held:
            fitter(replace(FIT, batch_size=batch_size, accumulate=accumulate), network=Noting).step()
        return max(held)

    assert most(BATCH, pieces) == most(BATCH // pieces, 1)
    assert most(BATCH, 1) > most(BATCH // pieces, 1)


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_loss_that_is_not_finite_in_one_piece_stops_before_the_step(pieces: int) -> None:
    samples = normal(BATCH, 2)
    samples[3] = float("inf")
    broken = Fitter(flow(), TensorSource(samples), replace(FIT, accumulate=pieces))
    before = [weight.clone() for weight in broken.network.parameters()]
    with pytest.raises(LFMError, match=r"^loss of sub-flow 1 is (nan|inf) at step 1; lower learning_rate"):
        broken.step()
    for weight, old in zip(broken.network.parameters(), before, strict=True):
        assert torch.equal(weight, old)


@pytest.mark.parametrize("options", [FIT, DISTILL], ids=["fit", "distill"])
@pytest.mark.parametrize("pieces", [0, -1])
def test_less_than_one_piece_is_refused(options: FitOptions | DistillOptions, pieces: int) -> None:
    with pytest.raises(LFMError, match=rf"^accumulate: {pieces} must be positive"):
        replace(options, accumulate=pieces)


@pytest.mark.parametrize("options", [FIT, DISTILL], ids=["fit", "distill"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("max_grad_norm", -1.0), ("weight_decay", -1.0), ("ema_power", -0.5), ("ema_maximum", 1.5), ("warmup_steps", -1)],
)
def test_settings_that_would_climb_or_run_away_are_refused(
    options: FitOptions | DistillOptions, name: str, value: float
) -> None:
    """A negative norm to clip to turns descent into ascent."""
    with pytest.raises(LFMError, match=rf"^{name}: {value} must be "):
        replace(options, **{name: value})


def test_parts_cover_a_count_once_with_sizes_that_differ_by_one_at_most() -> None:
    for count, n in itertools.product([*range(1, 40), 1000], [1, 2, 3, 7, 31, 50]):
        pieces = [list(range(count))[part] for part in parts(count, n)]
        assert list(itertools.chain(*pieces)) == list(range(count))
        sizes = [len(piece) for piece in pieces]
        assert len(sizes) == min(n, count)
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
