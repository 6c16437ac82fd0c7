"""BSDS300: patches of natural photographs, cut anew from those of BSDS500.

BSDS500's folders `train` (200) and `val` (100) are BSDS300's train and test photographs (Martin et al. 2001). The
recipe is that of RNADE and MAF (Uria et al. 2013, Papamakarios et al. 2017); which photographs validated there is
not known, here a seeded tenth of the training ones does.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
SIDE = 8
ENDINGS = (".jpg", ".jpeg", ".png")
LUMINANCE = np.array([0.2989, 0.5870, 0.1140])


def read_photographs(path: str | Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """BSDS300's train and test photographs, by name in order: grey values (h, w) uint8 each.

    `path` is a folder or a zip in which, at any depth, folders `train` and `val` hold the photographs. Grey is
    0.2989 R + 0.5870 G + 0.1140 B, rounded. Raises LFMError if either folder is missing or a photograph is damaged.
    """
    parts: dict[str, dict[str, Array]] = {"train": {}, "val": {}}
    for name, data in _files(Path(path)):
        parts[name.parent.name][name.name] = _grey(data, f"{path}: {name}")
    for part, photographs in parts.items():
        if not photographs:
            raise LFMError(
                f"{path}: holds no photograph in a folder `{part}`; give the images of BSDS500, train and val"
            )
    return parts["train"], parts["val"]


def split_photographs(names: list[str], seed: int) -> tuple[list[str], list[str]]:
    """A seeded nine tenths of the training photographs to train on, the other tenth (20 of 200) to validate."""
    if len(names) < 2:
        raise LFMError(f"BSDS300: {len(names)} training photograph; give 2 at least, one of them validates")
    order = np.random.default_rng([seed, *b"photographs"]).permutation(len(names))
    n_valid = max(1, len(names) // 10)
    return [names[index] for index in sorted(order[n_valid:])], [names[index] for index in sorted(order[:n_valid])]


def patches(photographs: list[Array], n: int, rng: np.random.Generator) -> Array:
    """`n` random patches of 8 x 8 pixels, (n, 63) float32: zero mean, the last pixel dropped.

    A photograph and a place in it are drawn uniformly; U[0, 1) is added to each pixel against ties, and all divided
    by 256, before the patch's own mean is subtracted; the bottom right pixel then says nothing new.
    """
    cut = np.empty((n, SIDE, SIDE), dtype=np.float32)
    drawn = rng.integers(len(photographs), size=n)
    for index, photograph in enumerate(photographs):
        rows = np.flatnonzero(drawn == index)
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (SIDE, SIDE))
        top, left = rng.integers(windows.shape[0], size=len(rows)), rng.integers(windows.shape[1], size=len(rows))
        cut[rows] = windows[top, left]
    cut += rng.random(cut.shape, dtype=np.float32)
    cut /= 256
    cut -= cut.mean(axis=(1, 2), keepdims=True)
    return np.ascontiguousarray(cut.reshape(n, SIDE**2)[:, :-1])


def _files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Photographs in folders `train` and `val`, in the order of their names."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        # the folder itself may be `images`, or one that holds it
        yield from ((PurePosixPath(name), (path / name).read_bytes()) for name in names if _is_photograph(name))
        return
    if not path.is_file():
        raise LFMError(f"{path}: no such file; give a zip or a folder of BSDS500's images, train and val")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(filter(_is_photograph, archive.namelist())):
                yield PurePosixPath(name), archive.read(name)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise LFMError(f"{path}: cannot be read as a zip ({' '.join(str(error).split())}); copy it anew") from error


def _is_photograph(name: str) -> bool:
    """Not the resource forks that some systems put beside every file."""
    file = PurePosixPath(name)
    return file.suffix.lower() in ENDINGS and file.parent.name in ("train", "val") and not file.name.startswith(".")


def _grey(data: bytes, where: str) -> Array:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            colours = np.asarray(picture.convert("RGB"), dtype=np.float64)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        cause = " ".join(str(error).split())
        raise LFMError(f"{where}: cannot be read as a picture ({cause}); copy it anew") from error
    if min(colours.shape[:2]) < SIDE:
        raise LFMError(f"{where}: {colours.shape[1]} x {colours.shape[0]} pixels; patches need 8 x 8 at least")
    return np.rint(colours @ LUMINANCE).astype(np.uint8)
