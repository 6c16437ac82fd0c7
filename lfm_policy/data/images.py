"""Sets of images by name: read, cropped, resized, split, and given to a flow in [-1, 1]."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfm_policy.data.image_building import Progress, Recipe, Rows, build
from lfm_policy.data.image_cache import cached
from lfm_policy.data.image_files import Layout, read_cifar10, read_digits, read_idx
from lfm_policy.data.image_folders import read_folder
from lfm_policy.data.image_npz import read_imagenet32, read_npz
from lfm_policy.flow.errors import LFMError

__all__ = ["READERS", "ImageDataConfig", "ImageSet", "ImageSource", "Images", "load_images", "to_pixels", "to_unit"]

Array = NDArray[Any]
OnCorrupt = Literal["refuse", "skip"]

READERS: dict[str, Callable[[Path], Layout]] = {
    "idx": read_idx,
    "cifar10": read_cifar10,
    "imagenet32": read_imagenet32,
    "npz": read_npz,
    "folder": read_folder,
}
NAMES = ("digits", *READERS)


@dataclass(frozen=True)
class ImageDataConfig:
    """Which images to learn.

    Args:
        name: `digits` (scikit-learn's, 8 x 8), `idx` (MNIST's files), `cifar10` (binary version), `imagenet32` (npz
            batches), `npz` (one file), or `folder` (a folder or zip of pictures; class folders give labels).
        path: the folder or file it is read from; digits need none.
        size: resize the shorter side to so many pixels and crop the centre; images are left as they are, if null.
        channels: 1 (grey) or 3 (colour), to which all are converted; those of the files, if null.
        flips: learn from every image's mirror image, too.
        on_corrupt: `refuse` a set in which a picture cannot be read, or `skip` such pictures and count them.
        n_train: images to train on, the first so many of the part in the order of the files; all, if null.
        n_test: images to test on, the first so many of the part; all, if null.
        test_fraction: share of the images to test on, drawn by the seed, where the set has no test part of its own.
        cache_dir: folder of the memory-mapped caches; ~/.cache/lfm_policy/images, if null.
    """

    name: str = "digits"
    path: str | None = None
    size: int | None = None
    channels: int | None = None
    flips: bool = False
    on_corrupt: OnCorrupt = "refuse"
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.1
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            nearest = difflib.get_close_matches(self.name, NAMES, n=1, cutoff=0)[0]
            raise LFMError(f"data.name: {self.name!r} is unknown; did you mean {nearest!r}? Known: {', '.join(NAMES)}")
        if self.channels not in (None, 1, 3):
            raise LFMError(f"data.channels: {self.channels} must be 1 (grey), 3 (colour) or null (as in the files)")
        if self.on_corrupt not in get_args(OnCorrupt):
            raise LFMError(f"data.on_corrupt: {self.on_corrupt!r} must be refuse or skip")
        for field in ("size", "n_train", "n_test"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise LFMError(f"data.{field}: {value} must be 1 or more")
        if not 0 < self.test_fraction < 1:
            raise LFMError(f"data.test_fraction: {self.test_fraction} must be above 0 and below 1")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One part of a set: `pixels` (M, C, H, W) uint8, memory-mapped where from a cache, and `labels` (M,) int64.

    `classes` are the labels' names; either is None where the files do not say.
    """

    pixels: Array
    labels: Array | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Images:
    """A set's training and test part, disjoint, and what is known of it.

    `source` says in one line where it comes from; `identity` holds name, file, channels, size ([H, W]), n_train,
    n_test, skipped, and SHA-256 over the shape, pixels and labels of the training part (`sha256`) and of the test part.
    """

    name: str
    source: str
    train: ImageSet
    test: ImageSet
    identity: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    @property
    def skipped(self) -> int:
        """Pictures that could not be read and were left out."""
        return int(self.identity["skipped"])


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image set as a `lfm_policy.flow.Source`; with `flips` index M + i is the mirror image of i."""

    images: ImageSet
    flips: bool = False

    def __len__(self) -> int:
        return len(self.images) * (2 if self.flips else 1)

    def batch(self, index: Tensor) -> tuple[Tensor, None]:
        """Images (B, C, H, W) in [-1, 1] of the indices (B,), and no condition."""
        count = len(self.images)
        x = to_unit(self.images.pixels[(index % count).cpu().numpy()])
        mirrored = (index >= count).cpu()[:, None, None, None]
        return (torch.where(mirrored, x.flip(-1), x) if self.flips else x), None


def to_unit(pixels: Array | Tensor) -> Tensor:
    """uint8 pixels of any shape as float32 in [-1, 1]: x / 127.5 - 1."""
    # a copy: torch warns of arrays that cannot be written, as those of a cache
    values = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return values.float() / 127.5 - 1


def to_pixels(x: Tensor) -> Tensor:
    """Values in [-1, 1] of any shape as uint8 pixels, rounded and clamped: the inverse of `to_unit`."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def load_images(config: ImageDataConfig, seed: int = 0, progress: Progress | None = None) -> Images:
    """The set that `config` names; one that has no test part of its own is split by `seed`.

    Sets from files go through a memory-mapped cache. While it is built `progress` is told of every so many images
    read. Raises LFMError, of one line, on missing, damaged or odd files, and where the cache does not fit.
    """
    recipe = Recipe(
        config.name,
        config.size,
        config.channels,
        config.on_corrupt,
        config.n_train,
        config.n_test,
        config.test_fraction,
        seed,
    )
    if config.name == "digits":
        if config.path is not None:
            raise LFMError(f"data.path: {config.path!r} is given, but digits come with scikit-learn; leave it out")
        layout = read_digits()
        rows = build(layout, recipe, "digits", _in_memory, progress)
        return _images(config, rows, layout, "scikit-learn's digits", seed)
    if config.path is None:
        raise LFMError(f"data.path: is not given, but {config.name} is read from files; give their folder or file")
    path = Path(config.path).expanduser()
    if not path.exists():
        raise LFMError(f"data.path: {path} does not exist; give the folder or file of the images")
    layout = READERS[config.name](path)
    rows = cached(layout, recipe, path, config.cache_dir, progress)
    return _images(config, rows, layout, f"{config.name} of {path}{layout.note}", seed)


def _in_memory(shape: tuple[int, ...]) -> tuple[Array, Array]:
    return np.empty(shape, dtype=np.uint8), np.full(shape[0], -1, dtype=np.int64)


def _images(config: ImageDataConfig, rows: Rows, layout: Layout, source: str, seed: int) -> Images:
    facts = rows.facts
    train = _part(rows, layout, 0, facts["n_train"])
    test = _part(rows, layout, facts["test_start"], facts["n_test"])
    channels, height, width = rows.pixels.shape[1:]
    identity = {
        "name": config.name,
        "file": None if config.path is None else Path(os.path.abspath(config.path)).name,
        "channels": channels,
        "size": [height, width],
        **{key: facts[key] for key in ("n_train", "n_test", "skipped", "sha256", "test_sha256")},
    }
    held_out = "" if layout.test else f", {config.test_fraction:g} held out by seed {seed}"
    return Images(config.name, f"{source}{held_out}", train, test, identity)


def _part(rows: Rows, layout: Layout, start: int, count: int) -> ImageSet:
    chosen = slice(start, start + count)
    return ImageSet(rows.pixels[chosen], rows.labels[chosen] if rows.facts["labelled"] else None, layout.classes)
