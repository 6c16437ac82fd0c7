"""Named generators and batch orders are pure functions of their names."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lfm_policy.flow import LocalFlow, Matching, Schedule, named_generator
from lfm_policy.flow.matching import draw_whole_clock
from lfm_policy.flow.random import named_seed
from lfm_policy.flow.source import BatchOrder, slices
from lfm_policy.nets import MLP

NAMES = [(0, "train"), (1, "train"), (0, "valid"), (0, "train", 0), (0, "train", 1), (0, "train", 1, 1), (1, "1/1")]
NAMES += [(0, "train", 11), (11, "1"), (1, "11"), (1, "1", 1)]


def first_draws(name: tuple) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=named_generator(*name), dtype=torch.float64).tolist())


def test_equal_names_give_equal_streams_and_different_ones_different() -> None:
    streams = [first_draws(name) for name in NAMES]
    assert streams == [first_draws(name) for name in NAMES]
    assert len(set(streams)) == len(NAMES) - 1  # (1, "1/1") and (1, "1", 1) spell the same


def test_streams_of_neighbouring_indices_are_uncorrelated() -> None:
    """Correlations of 200 pairs of streams of 1000 numbers, each of standard error 0.032, all below 5 of them."""
    draws = torch.stack([torch.randn(1000, generator=named_generator(7, "train", 1, k)) for k in range(21)])
    correlations = draws.corrcoef() - torch.eye(21)
    assert correlations.abs().max() < 5 / 1000**0.5


def test_streams_are_the_same_in_a_fresh_process() -> None:
    """Python's own hash is salted per process; the seed must not rest on it."""
    code = "from lfm_policy.flow.random import named_seed as s; print(s(3, 'train', 2, 5), s(0, 'order'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [int(word) for word in printed.split()] == [named_seed(3, "train", 2, 5), named_seed(0, "order")]


class OneDevice(TorchFunctionMode):
    """Refuses, as torch does between CPU and CUDA, to draw on another device than the generator's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        generator, device = (kwargs or {}).get("generator"), torch.device((kwargs or {}).get("device") or "cpu")
        assert generator is None or generator.device == device, func
        return func(*args, **(kwargs or {}))


def test_every_draw_is_made_on_the_generators_device() -> None:
    """A CPU generator must serve networks on a GPU; `meta` stands in for it."""
    x, g = torch.zeros(4, 2, device="meta"), named_generator(0, "test")
    flow = LocalFlow([MLP(2, 4, 1)], Schedule()).to("meta")
    with OneDevice():
        for coupling in ("fresh", "common", "independent"):
            problem = Matching("ot", coupling, "exact").draw(x, 1, Schedule((0.2,)), g)
            assert {value.device.type for value in problem if value is not None} == {"meta"}
        assert draw_whole_clock(x, Schedule((0.5,)), g).target.device.type == "meta"
        assert flow.sample((4, 2), generator=g).device.type == "meta"
        assert flow.log_prob(x, n_probes=2, generator=g).device.type == "meta"


@pytest.mark.parametrize(("count", "batch_size"), [(10, 5), (10, 3), (10, 10), (3, 10), (1, 4), (7, 16)])
def test_every_epoch_visits_every_sample_once(count: int, batch_size: int) -> None:
    order = BatchOrder(count, batch_size, 0, 1)
    batches = [order(k) for k in range(5 * count)]  # 5 · batch_size epochs
    assert {len(batch) for batch in batches} == {batch_size}
    epochs = torch.cat(batches).reshape(-1, count)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(count).expand_as(epochs))
    if count > 3:
        assert len({tuple(epoch.tolist()) for epoch in epochs}) > 0.9 * len(epochs)  # not one order again and again


def test_batch_order_is_a_pure_function_of_the_step() -> None:
    forwards = [BatchOrder(10, 4, 0, 1)(k).tolist() for k in range(12)]
    order = BatchOrder(10, 4, 0, 1)
    assert [order(k).tolist() for k in reversed(range(12))] == forwards[::-1]
    for other in (BatchOrder(10, 4, 1, 1), BatchOrder(10, 4, 0, 2)):
        assert [other(k).tolist() for k in range(12)] != forwards


@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_slices_cover_all_indices_in_order(count: int, size: int) -> None:
    pieces = list(slices(count, size))
    assert torch.equal(torch.cat(pieces), torch.arange(count))
    assert all(len(piece) == size for piece in itertools.islice(pieces, len(pieces) - 1))
