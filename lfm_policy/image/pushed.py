"""Pushed samples on disk: written piece by piece, found again by a resumed run, read where they lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lfm_policy.flow import LFMError, Push
from lfm_policy.progress import progress_bar
from lfm_policy.training.loop import StepStopped

SPLITS = ("train", "valid")


class PushStopped(StepStopped):
    """Somebody asked to stop between two pieces of a push; what is written stays and is gone on from."""


class DiskStore:
    """Keeps the samples of p_n in `folder`, for `Fitter`: never the whole set in memory.

    A file of float32 grows by a piece at a time; a line of JSON beside it says how many are in it and which weights
    made them. A resumed run that pushes with the same weights goes on there; other weights begin anew. Samples of
    p_(n-2) are removed when those of p_n are begun: a run that is killed before sub-flow n + 1 has a checkpoint goes on
    from sub-flow n's, which needs p_(n-1).

    Args:
        folder: is made when it is needed.
        asked_to_stop: is asked between pieces.
    """

    def __init__(self, folder: Path, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        self.folder, self.asked_to_stop = folder, asked_to_stop

    def __call__(self, push: Push) -> Tensor:
        """The samples (M, *shape), mapped from disk. LFMError where the disk is full; PushStopped when asked to."""
        file = self.folder / f"{SPLITS[push.split]}_{push.n}.f32"
        note = file.with_suffix(".json")
        made_by = fingerprint(push.network)
        done, shape = _progress(note, file, made_by)
        with _writing(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove(push.split, push.n - 2)
        description = f"pushing through sub-flow {push.n}"
        with progress_bar(description, push.n_pieces, done=done, unit="piece") as bar:
            for i in range(done, push.n_pieces):
                if self.asked_to_stop():
                    raise PushStopped
                piece = push.make(i)
                with _writing(file):
                    shape = _append(file, piece, shape)
                    _write(note, {"made_by": made_by, "pieces": i + 1, "shape": shape})
                bar.update()
        return torch.from_numpy(np.memmap(file, np.float32, "c", shape=tuple(shape)))

    def _remove(self, split: int, n: int) -> None:
        for suffix in (".json", ".f32"):
            (self.folder / f"{SPLITS[split]}_{n}{suffix}").unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise LFMError where the disk of a folder, which need not exist yet, has fewer bytes free than `needed`."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise LFMError(
            f"output_dir: pushed samples take {needed / 1e9:.3g} GB and {there} has {free / 1e9:.3g} GB free; choose "
            "another disk, lower data.n_train, or set flow.marginals: exact, which pushes nothing"
        )


def bytes_needed(counts: tuple[int, ...], elements: int, n_subflows: int) -> int:
    """Largest number of bytes that pushed samples of so many elements take at a time: those of p_(n-1) and of p_n."""
    return sum(counts) * elements * 4 * min(2, n_subflows - 1)


def fingerprint(network: nn.Module) -> str:
    """Hash of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _progress(note: Path, file: Path, made_by: str) -> tuple[int, list[int]]:
    """Pieces that are there and their common shape."""
    try:
        found = json.loads(note.read_text())
        whole = file.stat().st_size >= int(np.prod(found["shape"])) * 4
        if found["made_by"] == made_by and whole:
            return found["pieces"], found["shape"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, []


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """LFMError where a disk is full or does not let itself be written."""
    try:
        yield
    except OSError as error:
        raise LFMError(
            f"{file}: cannot be written ({error.strerror}); free space and continue with --resume true"
        ) from error


def _append(file: Path, piece: Tensor, shape: list[int]) -> list[int]:
    """Write a piece behind what is known to be whole, of `shape` ([] for nothing); the shape of all."""
    count = shape[0] if shape else 0
    written = count * piece[0].numel() * 4
    with file.open("r+b" if count else "wb") as out:
        out.truncate(written)
        out.seek(written)
        out.write(piece.float().cpu().contiguous().numpy().tobytes())
        out.flush()
        os.fsync(out.fileno())
    return [count + len(piece), *piece.shape[1:]]


def _write(file: Path, values: dict[str, object]) -> None:
    temporary = file.with_suffix(".partial")
    temporary.write_text(json.dumps(values))
    os.replace(temporary, file)
