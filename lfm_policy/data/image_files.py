"""What the files of an image set hold, found at once and read when asked for; digits, MNIST's and CIFAR-10's files."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
Read = Callable[[], tuple[Iterable[Array], Array | None]]

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801  # unsigned bytes in three dimensions and in one
CIFAR_RECORD = 1 + 3 * 32 * 32
BROKEN = (OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile)


class CorruptImage(LFMError):
    """One image that cannot be read, among others that may be."""


@dataclass(frozen=True)
class Piece:
    """Images that are read together: an array file's, or a single picture.

    `read` gives `count` images (H, W, C) uint8, C 1 or 3, and labels (count,) int64 or None. LFMError on damage,
    CorruptImage where the piece is one picture; an iterator may raise it on the way.
    """

    where: str
    count: int
    read: Read

    def name(self, index: int) -> str:
        """Image number `index` of the piece as errors name it."""
        return self.where if self.count == 1 else f"{self.where}: image {index}"


@dataclass(frozen=True)
class Layout:
    """A set as its files give it: pieces to train on, to test on (none: a test part is held out), and its classes.

    `files` are all that is read, for telling whether a cache is still theirs; `note` goes to the set's source.
    """

    train: tuple[Piece, ...]
    test: tuple[Piece, ...]
    files: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    note: str = ""


def read_digits() -> Layout:
    """scikit-learn's 1797 digits of 8 x 8: 17 levels 0 … 16 spread over 0 … 255."""

    def read() -> tuple[Array, Array | None]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], digits.target.astype(np.int64)

    return Layout((Piece("digits", 1797, read),), (), classes=tuple("0123456789"))


def read_idx(path: Path) -> Layout:
    """A folder of MNIST's files: {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, each as it is or as .gz.

    Without t10k there is no test part, without both label files there are no labels.
    """
    folder = folder_of(path, "MNIST's train-images-idx3-ubyte and so on")
    train, test = (_idx_files(folder, part) for part in ("train", "t10k"))
    if train is None:
        raise LFMError(f"{path}: has no train-images-idx3-ubyte or .gz; give the folder that holds MNIST's files")
    parts = [train] if test is None else [train, test]
    labelled = [labels for _, labels in parts if labels is not None]
    if labelled and len(labelled) < len(parts):
        raise LFMError(f"{path}: has {labelled[0].name} but not the other part's labels; add them or remove it")
    pieces = [_idx_piece(images, labels) for images, labels in parts]
    files = tuple(str(file) for part in parts for file in part if file is not None)
    return Layout((pieces[0],), tuple(pieces[1:]), files)


def _idx_files(folder: Path, part: str) -> tuple[Path, Path | None] | None:
    images = _first(folder, [f"{part}-images{dash}idx3-ubyte{gz}" for gz in ("", ".gz") for dash in "-."])
    labels = _first(folder, [f"{part}-labels{dash}idx1-ubyte{gz}" for gz in ("", ".gz") for dash in "-."])
    return None if images is None else (images, labels)


def _idx_piece(images: Path, labels: Path | None) -> Piece:
    count, height, width = _idx_header(images, IMAGES_MAGIC, 3)
    if labels is not None and (n_labels := _idx_header(labels, LABELS_MAGIC, 1)[0]) != count:
        raise LFMError(f"{labels}: has {n_labels} labels, but {images.name} {count} images; copy both anew")

    def read() -> tuple[Array, Array | None]:
        pixels = _idx_values(images, 16, count * height * width).reshape(count, height, width, 1)
        return pixels, None if labels is None else _idx_values(labels, 8, count).astype(np.int64)

    return Piece(str(images), count, read)


def _idx_header(file: Path, magic: int, n_dims: int) -> tuple[int, ...]:
    head = _idx_bytes(file, 4 + 4 * n_dims)
    found = struct.unpack(">I", head[:4])[0] if len(head) >= 4 else None
    if found != magic or len(head) < 4 + 4 * n_dims:
        told = "is too short for its header" if found in (None, magic) else f"has the magic number 0x{found:08x}"
        raise LFMError(f"{file}: {told}, an idx file of these begins with 0x{magic:08x}; copy it anew")
    return struct.unpack(f">{n_dims}I", head[4:])


def _idx_values(file: Path, skip: int, count: int) -> Array:
    values = np.frombuffer(_idx_bytes(file, skip + count + 1)[skip:], dtype=np.uint8)
    if len(values) != count:
        told = f"only {len(values)}" if len(values) < count else "more"
        raise LFMError(f"{file}: its header announces {count} bytes, but {told} follow; copy it anew")
    return values


def _idx_bytes(file: Path, at_most: int) -> bytes:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            return opened.read(at_most)
    except BROKEN as error:
        raise damaged(file, error) from error


def read_cifar10(path: Path) -> Layout:
    """A folder of CIFAR-10's binary version: data_batch_1.bin … data_batch_5.bin and test_batch.bin.

    Records of 3073 bytes: the label and 32 x 32 red, green and blue. Classes are those of batches.meta.txt.
    """
    folder = folder_of(path, "CIFAR-10's binary version")
    inner = folder / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else folder
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = all_there(folder, names, "CIFAR-10's binary version (cifar-10-binary.tar.gz), unpacked")
    pieces = tuple(Piece(str(file), _cifar_count(file), partial(_cifar_values, file)) for file in files)
    meta = folder / "batches.meta.txt"
    classes = tuple(meta.read_text().split()) if meta.is_file() else None
    if classes is not None and len(classes) != 10:
        raise LFMError(f"{meta}: names {len(classes)} classes, not 10; copy it anew or remove it")
    return Layout(pieces[:-1], pieces[-1:], tuple(map(str, [*files, meta] if classes else files)), classes)


def _cifar_count(file: Path) -> int:
    size = file.stat().st_size
    if not size or size % CIFAR_RECORD:
        raise LFMError(f"{file}: has {size} bytes, no whole number of {CIFAR_RECORD}-byte records; copy it anew")
    return size // CIFAR_RECORD


def _cifar_values(file: Path) -> tuple[Array, Array | None]:
    try:
        records = np.fromfile(file, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
    except BROKEN as error:
        raise damaged(file, error) from error
    if (records[:, 0] > 9).any():
        odd = int(np.argmax(records[:, 0] > 9))
        raise LFMError(f"{file}: record {odd} has the label {records[odd, 0]}, not 0 to 9; copy it anew")
    return planes_last(records[:, 1:]), records[:, 0].astype(np.int64)


def planes_last(flat: Array) -> Array:
    """(M, 3 * 32 * 32), red, green and blue planes, to (M, 32, 32, 3)."""
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def folder_of(path: Path, what: str) -> Path:
    if not path.is_dir():
        told = "is a file" if path.is_file() else "no such folder"
        raise LFMError(f"{path}: {told}; give data.path the folder that holds {what}")
    return path


def _first(folder: Path, names: list[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def all_there(folder: Path, names: list[str], what: str) -> tuple[Path, ...]:
    for name in names:
        if not (folder / name).is_file():
            raise LFMError(f"{folder}: has no {name}; give data.path the folder of {what}")
    return tuple(folder / name for name in names)


def damaged(file: Path, error: Exception) -> LFMError:
    return LFMError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]}); copy it anew")
