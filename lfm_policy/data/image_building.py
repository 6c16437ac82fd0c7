"""One pass over a set's files: every image read once, prepared, and put in its row of the training or test part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfm_policy.data.image_files import CorruptImage, Layout
from lfm_policy.data.image_preparation import Alike, prepared
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.random import named_generator

Array = NDArray[Any]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Recipe:
    """What rows follow from, beside the files: see `ImageDataConfig`; `seed` is the held-out part's."""

    name: str
    size: int | None
    channels: int | None
    on_corrupt: str
    n_train: int | None
    n_test: int | None
    test_fraction: float
    seed: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Images as they are learned from: `pixels` (M, C, H, W) uint8, `labels` (M,) int64, -1 without.

    The training part's rows are the first, those of the test part begin at `test_start`; rows that skipped images
    left unused lie behind either. `facts` are counts and hashes: n_train, n_test, test_start, skipped, labelled,
    sha256 and test_sha256, each over a part's shape, pixels and labels.
    """

    pixels: Array
    labels: Array
    facts: dict[str, Any]


@dataclass
class _Part:
    """Rows start … start + room of one part, filled from the first on."""

    start: int
    room: int
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def full(self) -> bool:
        return self.count == self.room


def build(
    layout: Layout,
    recipe: Recipe,
    where: str,
    allocate: Callable[[tuple[int, ...]], tuple[Array, Array]],
    progress: Progress | None = None,
) -> Rows:
    """Read the set once, in order, into arrays that `allocate` gives for the shape (M, C, H, W).

    No more than one piece of the set is in memory. `progress` is told how many images each step was. Raises LFMError
    on what `prepared` and the readers refuse, and if parts are smaller than asked for.
    """
    is_test = _is_test(layout, recipe, where)
    train_room, test_room = (_room(is_test, part, recipe, where) for part in (False, True))
    parts = (_Part(0, train_room), _Part(train_room, test_room))
    alike = Alike(recipe.size, recipe.channels)
    stored: tuple[Array, Array] | None = None
    skipped, end, labelled = 0, 0, False
    for piece in layout.train + layout.test:
        of_test = is_test[end : end + piece.count]
        end += piece.count
        if all(parts[part].full for part in set(of_test.tolist())):
            continue
        try:
            images, labels = piece.read()
        except CorruptImage:
            if recipe.on_corrupt != "skip":
                raise
            skipped += piece.count
            continue
        labelled = labels is not None
        for index, (image, test) in enumerate(zip(images, of_test, strict=True)):
            part = parts[test]
            if part.full:
                continue
            alike.check(piece.name(index), image.shape)
            values = np.ascontiguousarray(prepared(image, recipe.size, recipe.channels))
            stored = stored or allocate((train_room + test_room, *values.shape))
            row = part.start + part.count
            stored[0][row], stored[1][row] = values, -1 if labels is None else labels[index]
            part.digest.update(values)
            part.count += 1
        if progress is not None:
            progress(piece.count)
    if stored is None or not all(part.count for part in parts):
        raise LFMError(f"{where}: has no image that can be read in one of its parts ({skipped} skipped); copy it anew")
    _check_asked(parts, recipe, where, skipped)
    return Rows(*stored, _facts(stored, parts, skipped, labelled))


def _is_test(layout: Layout, recipe: Recipe, where: str) -> Array:
    """(M,) bool over all images in order: those of the test part, or a seeded share where there is none."""
    n_first, n_own = (sum(piece.count for piece in pieces) for pieces in (layout.train, layout.test))
    if layout.test:
        return np.repeat([False, True], [n_first, n_own])
    if n_first < 2:
        raise LFMError(f"{where}: holds {n_first} image; give 2 at least, one to test on")
    n_test = min(max(1, round(recipe.test_fraction * n_first)), n_first - 1)
    is_test = np.zeros(n_first, dtype=bool)
    order = torch.randperm(n_first, generator=named_generator(recipe.seed, "split"))
    is_test[order[:n_test].numpy()] = True
    return is_test


def _room(is_test: Array, part: bool, recipe: Recipe, where: str) -> int:
    available = int((is_test == part).sum())
    field_name, asked = ("n_test", recipe.n_test) if part else ("n_train", recipe.n_train)
    if asked is not None and asked > available:
        raise LFMError(f"data.{field_name}: {asked} is more than the {available} images of {where}; ask for fewer")
    return available if asked is None else asked


def _check_asked(parts: tuple[_Part, _Part], recipe: Recipe, where: str, skipped: int) -> None:
    for part, (field_name, asked) in zip(parts, (("n_train", recipe.n_train), ("n_test", recipe.n_test)), strict=True):
        if asked is not None and part.count < asked:
            raise LFMError(
                f"data.{field_name}: {asked} is more than the {part.count} readable images of {where} "
                f"({skipped} skipped); ask for fewer"
            )


def _facts(stored: tuple[Array, Array], parts: tuple[_Part, _Part], skipped: int, labelled: bool) -> dict[str, Any]:
    pixels, labels = stored
    for part in parts:
        rows = slice(part.start, part.start + part.count)
        part.digest.update(f"{(part.count, *pixels.shape[1:])} {labelled}\n".encode())
        part.digest.update(np.ascontiguousarray(labels[rows], dtype="<i8"))
    train, test = parts
    return {
        "n_train": train.count,
        "n_test": test.count,
        "test_start": test.start,
        "skipped": skipped,
        "labelled": labelled,
        "sha256": train.digest.hexdigest(),
        "test_sha256": test.digest.hexdigest(),
    }
