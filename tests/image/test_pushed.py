"""Pushed samples on disk are those in memory, bit for bit, whenever and however the run is broken off."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import FitOptions, Fitter, LFMError, LocalFlow, Push, Schedule, Solver, TensorSource
from lfm_policy.flow.fit import in_memory
from lfm_policy.image.pushed import DiskStore, PushStopped, bytes_needed
from lfm_policy.nets import MLP

COUNTS, DIM = (22, 9), 3
OPTIONS = FitOptions(
    steps=2, batch_size=6, learning_rate=1e-2, warmup_steps=1, push_solver=Solver("euler", 1), push_batch_size=8
)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(2, 2)


@dataclass
class Making:
    """Pieces (2, *shape) of noise by number; notes which were made, and how many earlier ones were then alive."""

    shape: tuple[int, ...] = (1, 2, 3)
    made: list[int] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    pieces: list[weakref.ref[Tensor]] = field(default_factory=list)
    fail: Callable[[int], None] = lambda i: None

    def __call__(self, i: int) -> Tensor:
        self.fail(i)
        self.alive.append(sum(piece() is not None for piece in self.pieces))
        self.made.append(i)
        piece = torch.randn(2, *self.shape, generator=torch.Generator().manual_seed(i))
        self.pieces.append(weakref.ref(piece))
        return piece


def push_of(make: Callable[[int], Tensor], n: int = 1, split: int = 0, n_pieces: int = 5, seed: int = 0) -> Push:
    return Push(n, split, 2 * n_pieces, n_pieces, network(seed), make)


def stopping(after: int) -> Callable[[], bool]:
    """Says yes when asked for the time number `after`, counted from 0."""
    answers = iter([False] * after + [True])
    return lambda: next(answers)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stored(folder: Path) -> int:
    """Bytes of samples in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.f32"))


def chain(n_subflows: int) -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = [MLP(DIM, 8, 1) for _ in range(n_subflows)]
    return LocalFlow(fields, Schedule.geometric(n_subflows, 0.2, 1.1))


def fitter(flow: LocalFlow, keep: Callable[[Push], Tensor], options: FitOptions = OPTIONS) -> Fitter:
    x = torch.randn(sum(COUNTS), DIM, generator=torch.Generator().manual_seed(0)).cumsum(1)
    train, valid = (TensorSource(part) for part in x.split(COUNTS))
    return Fitter(flow, train, options, 3, valid, keep=keep)


def end(trained: Fitter) -> list[Any]:
    return [(trained.step(), trained.held_out_loss()) for _ in range(trained.total_steps - trained.steps_done)]


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_training_on_disk_is_training_in_memory(delta: float, tmp_path: Path) -> None:
    options = replace(OPTIONS, initial_diffusion=delta)
    here, there = fitter(chain(4), in_memory, options), fitter(chain(4), DiskStore(tmp_path / "made" / "here"), options)
    assert end(here) == end(there)
    for a, b in zip(here.flow.state_dict().values(), there.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3), (3, 4, 4)])
def test_samples_on_disk_are_the_pieces_end_to_end(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Read back by torch and by numpy, from a file of float32 and nothing else; writing on them changes no file."""
    want = in_memory(push_of(Making(shape)))
    found = DiskStore(tmp_path)(push_of(Making(shape)))
    assert found.dtype == torch.float32
    assert torch.equal(found, want)
    raw = np.fromfile(tmp_path / "train_1.f32", np.float32)
    assert np.array_equal(raw, want.numpy().ravel())
    found += 1
    assert torch.equal(DiskStore(tmp_path)(push_of(Making(shape))), want)


def test_pieces_of_any_layout_and_precision_are_kept_by_value(tmp_path: Path) -> None:
    """Such as channels last, a transposed view, a piece that asks for gradients, a last piece that is shorter."""
    x = torch.randn(5, 3, 4, 2)
    parts = [x[:2].to(memory_format=torch.channels_last), x[2:4].double().requires_grad_(), x[4:]]
    push = Push(1, 0, 5, 3, network(), lambda i: parts[i].detach())
    assert torch.equal(DiskStore(tmp_path)(push), x)
    turned = Push(2, 0, 5, 1, network(), lambda i: x.transpose(1, 3))
    assert torch.equal(DiskStore(tmp_path)(turned), x.transpose(1, 3))


def test_only_one_piece_is_in_memory(tmp_path: Path) -> None:
    """Each is released before the next is made, but for the one that was written last."""
    making = Making()
    DiskStore(tmp_path)(push_of(making, n_pieces=8))
    assert len(making.alive) == 8
    assert max(making.alive) <= 1
    everything = Making()
    in_memory(push_of(everything, n_pieces=8))
    assert everything.alive == list(range(8))  # the law can fail


@pytest.mark.parametrize("after", range(6))
def test_a_stopped_push_is_gone_on_from(after: int, tmp_path: Path) -> None:
    """By another store, wherever it was stopped; a push that is complete does not ask."""
    first, second = Making(), Making()
    if after < 5:
        with pytest.raises(PushStopped):
            DiskStore(tmp_path, stopping(after))(push_of(first))
    else:
        DiskStore(tmp_path, stopping(after))(push_of(first))
    assert first.made == list(range(after))
    found = DiskStore(tmp_path)(push_of(second))
    assert second.made == list(range(after, 5))
    assert torch.equal(found, in_memory(push_of(Making())))
    third = Making()
    again = DiskStore(tmp_path, stopping(0))(push_of(third))
    assert third.made == []
    assert torch.equal(again, found)


@pytest.mark.parametrize("after", range(5))
def test_a_push_that_dies_is_gone_on_from(after: int, tmp_path: Path) -> None:
    """A piece that cannot be made, for want of memory for example, leaves the earlier ones; none is lost or doubled."""

    def fail(i: int) -> None:
        if i == after:
            raise MemoryError

    first, second = Making(fail=fail), Making()
    with pytest.raises(MemoryError):
        DiskStore(tmp_path)(push_of(first))
    assert torch.equal(DiskStore(tmp_path)(push_of(second)), in_memory(push_of(Making())))
    assert second.made == list(range(after, 5))


@pytest.mark.parametrize("pieces", [2, 5])
def test_other_weights_begin_anew(pieces: int, tmp_path: Path) -> None:
    """Whether the push of the earlier weights was complete or not."""
    with contextlib.suppress(PushStopped):
        DiskStore(tmp_path, stopping(pieces))(push_of(Making((7,))))
    making = Making()
    found = DiskStore(tmp_path)(push_of(making, seed=1))
    assert making.made == list(range(5))
    assert torch.equal(found, in_memory(push_of(Making())))
    assert stored(tmp_path) == found.numel() * 4


def test_weights_that_differ_in_one_number_are_others(tmp_path: Path) -> None:
    push, making = push_of(Making()), Making()
    DiskStore(tmp_path)(push)
    weight = push.network.weight
    assert isinstance(weight, Tensor)
    weight.data[0, 0] = torch.nextafter(weight.data[0, 0], torch.tensor(torch.inf))
    DiskStore(tmp_path)(replace(push, make=making))
    assert making.made == list(range(5))


@pytest.mark.parametrize("damage", ["cut", "gone", "longer", "note gone", "empty", "[]", "{}", '"text"', "\x00\xff"])
def test_files_that_were_damaged_are_made_right(damage: str, tmp_path: Path) -> None:
    want = in_memory(push_of(Making()))
    DiskStore(tmp_path)(push_of(Making()))
    samples, note = tmp_path / "train_1.f32", tmp_path / "train_1.json"
    if damage == "cut":
        os.truncate(samples, samples.stat().st_size - 1)
    elif damage == "longer":
        samples.write_bytes(samples.read_bytes() + b"more")
    elif damage in ("gone", "note gone"):
        (samples if damage == "gone" else note).unlink()
    else:
        note.write_text("" if damage == "empty" else damage, "latin-1")
    assert torch.equal(DiskStore(tmp_path)(push_of(Making())), want)


@pytest.mark.parametrize("left", [1, 13, 10_000])
def test_what_lies_behind_whole_pieces_is_written_over(left: int, tmp_path: Path) -> None:
    """As a run that is killed while it writes leaves it; nothing of it remains."""
    with pytest.raises(PushStopped):
        DiskStore(tmp_path, stopping(3))(push_of(Making()))
    with (tmp_path / "train_1.f32").open("ab") as file:
        file.write(b"\x01" * left)
    making, want = Making(), in_memory(push_of(Making()))
    assert torch.equal(DiskStore(tmp_path)(push_of(making)), want)
    assert making.made == [3, 4]
    assert stored(tmp_path) == want.numel() * 4


def test_splits_and_sub_flows_do_not_touch_each_other(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    kept = {(n, split): store(push_of(Making((n + split,)), n, split)).clone() for n in (1, 2) for split in (0, 1)}
    for (n, split), samples in kept.items():
        making = Making((n + split,))
        assert torch.equal(store(push_of(making, n, split)), samples)
        assert making.made == []


def test_samples_are_removed_when_those_of_the_sub_flow_after_the_next_are_begun(tmp_path: Path) -> None:
    """Those of p_(n-1), which p_n is made from, stay: a run that is killed then goes on from them."""
    store = DiskStore(tmp_path)
    for n in range(1, 5):
        for split in range(2):
            store(push_of(Making(), n, split))
        there = {n, n - 1} - {0}
        want = {f"{part}_{k}.{kind}" for part in ("train", "valid") for k in there for kind in ("f32", "json")}
        assert names(tmp_path) == want


@pytest.mark.parametrize("stage_steps", [0, 1])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_run_that_is_killed_after_a_push_makes_nothing_again(stages: int, stage_steps: int, tmp_path: Path) -> None:
    """Its last checkpoint may be of the end of the sub-flow before, or of a step within the next; p_n is complete."""
    whole = fitter(chain(4), in_memory)
    end(whole)
    killed = fitter(chain(4), DiskStore(tmp_path))
    for _ in range(stages * OPTIONS.steps + stage_steps):
        killed.step()
    state, flow = copy.deepcopy(killed.state_dict()), copy.deepcopy(killed.flow)
    killed.step()
    pieces = []

    def counting(push: Push) -> Tensor:
        def make(i: int) -> Tensor:
            if push.n <= stages:
                pieces.append((push.n, push.split, i))
            return push.make(i)

        return DiskStore(tmp_path)(replace(push, make=make))

    resumed = fitter(flow, counting)
    resumed.load_state_dict(state)
    end(resumed)
    assert pieces == []
    for a, b in zip(whole.flow.state_dict().values(), resumed.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_subflows", [1, 2, 3, 4])
def test_bytes_needed_are_the_files_at_their_largest(n_subflows: int, tmp_path: Path) -> None:
    """Measured before and after each piece and each push of a whole run."""
    sizes, store = [0], DiskStore(tmp_path)

    def measuring(push: Push) -> Tensor:
        def make(i: int) -> Tensor:
            sizes.append(stored(tmp_path))
            return push.make(i)

        samples = store(replace(push, make=make))
        sizes.append(stored(tmp_path))
        return samples

    end(fitter(chain(n_subflows), measuring))
    assert max(sizes) == bytes_needed(COUNTS, DIM, n_subflows)


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["os.fsync", "os.replace", "pathlib.Path.write_text"])
def test_a_full_disk_ends_in_one_line_and_the_push_is_gone_on_from(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is samples that cannot be written or the note beside them; in the third piece."""

    def fail(i: int) -> None:
        if i == 2:
            monkeypatch.setattr(target, full)

    folder = tmp_path / "pushed"
    with pytest.raises(LFMError) as caught:
        DiskStore(folder)(push_of(Making(fail=fail)))
    line = str(caught.value)
    assert line.startswith(f"{folder / 'train_1.f32'}: cannot be written (No space left on device); ")
    assert "free space" in line
    assert "--resume true" in line
    assert "\n" not in line
    monkeypatch.undo()
    making = Making()
    assert torch.equal(DiskStore(folder)(push_of(making)), in_memory(push_of(Making())))
    assert making.made == [2, 3, 4]
    assert names(folder) == {"train_1.f32", "train_1.json"}


def test_a_folder_that_cannot_be_made_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LFMError, match=r"^.*file/pushed/train_1\.f32: cannot be written \(Not a directory\); "):
        DiskStore(tmp_path / "file" / "pushed")(push_of(Making()))
