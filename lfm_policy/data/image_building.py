"""One pass over a set's files: every image read once, prepared, and put in its row of the training or test part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfm_policy.data.image_files import CorruptImage, Layout, Piece
from lfm_policy.data.image_preparation import Alike, prepared
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.random import named_generator

Array = NDArray[Any]
Progress = Callable[[int], object]
Allocate = Callable[[tuple[int, ...]], tuple[Array, Array]]  # pixels and labels for a shape (M, C, H, W)


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


@dataclass
class _Filling:
    """The state of one pass: two parts, and the arrays once the first image has told their shape."""

    recipe: Recipe
    allocate: Allocate
    parts: tuple[_Part, _Part]
    alike: Alike
    arrays: tuple[Array, Array] | None = None
    skipped: int = 0
    labelled: bool = False

    def add(self, piece: Piece, of_test: Array) -> None:
        """Put the images (count,) of a piece into their parts, or count them as skipped."""
        try:
            images, labels = piece.read()
        except CorruptImage:
            if self.recipe.on_corrupt != "skip":
                raise
            self.skipped += piece.count
            return
        self.labelled = labels is not None
        for index, (image, test) in enumerate(zip(images, of_test, strict=True)):
            if not self.parts[test].full:
                self.alike.check(piece.name(index), image.shape)
                self._put(self.parts[test], image, -1 if labels is None else labels[index])

    def _put(self, part: _Part, image: Array, label: int) -> None:
        values = np.ascontiguousarray(prepared(image, self.recipe.size, self.recipe.channels))
        if self.arrays is None:
            self.arrays = self.allocate((sum(part.room for part in self.parts), *values.shape))
        row = part.start + part.count
        self.arrays[0][row], self.arrays[1][row] = values, label
        part.digest.update(values)
        part.count += 1


def build(layout: Layout, recipe: Recipe, where: str, allocate: Allocate, progress: Progress | None = None) -> Rows:
    """Read the set once, in order, into arrays that `allocate` gives for the shape (M, C, H, W).

    No more than one piece of the set is in memory. `progress` is told how many images each step was. Raises LFMError
    on what `prepared` and the readers refuse, and if parts are smaller than asked for.
    """
    is_test = _is_test(layout, recipe, where)
    train_room, test_room = (_room(is_test, part, recipe, where) for part in (False, True))
    parts = (_Part(0, train_room), _Part(train_room, test_room))
    filling = _Filling(recipe, allocate, parts, Alike(recipe.size, recipe.channels))
    end = 0
    for piece in layout.train + layout.test:
        of_test = is_test[end : end + piece.count].astype(int)
        end += piece.count
        if all(parts[part].full for part in set(of_test.tolist())):
            continue
        filling.add(piece, of_test)
        if progress is not None:
            progress(piece.count)
    _check_filled(parts, recipe, where, filling.skipped)
    assert filling.arrays is not None
    return Rows(*filling.arrays, _facts(filling))


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


def _check_filled(parts: tuple[_Part, _Part], recipe: Recipe, where: str, skipped: int) -> None:
    for part, purpose, asked in zip(parts, ("train", "test"), (recipe.n_train, recipe.n_test), strict=True):
        if not part.count:
            raise LFMError(f"{where}: holds no readable image to {purpose} on ({skipped} skipped); copy it anew")
        if asked is not None and part.count < asked:
            raise LFMError(
                f"data.n_{purpose}: {asked} is more than the {part.count} readable images of {where} "
                f"({skipped} skipped); ask for fewer"
            )


def _facts(filling: _Filling) -> dict[str, Any]:
    assert filling.arrays is not None
    pixels, labels = filling.arrays
    for part in filling.parts:
        rows = slice(part.start, part.start + part.count)
        part.digest.update(f"{(part.count, *pixels.shape[1:])} {filling.labelled}\n".encode())
        part.digest.update(np.ascontiguousarray(labels[rows], dtype="<i8"))
    train, test = filling.parts
    return {
        "n_train": train.count,
        "n_test": test.count,
        "test_start": test.start,
        "skipped": filling.skipped,
        "labelled": filling.labelled,
        "sha256": train.digest.hexdigest(),
        "test_sha256": test.digest.hexdigest(),
    }
