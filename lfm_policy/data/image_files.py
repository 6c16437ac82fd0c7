"""Image sets in files, one small reader a format: what the files hold, found at once and read when asked for."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
Read = Callable[[], tuple[Array, Array | None]]
Header = tuple[tuple[int, ...], np.dtype[Any]]

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801  # unsigned bytes in three dimensions and in one
CIFAR_RECORD = 1 + 3 * 32 * 32
BROKEN = (OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile)


class CorruptImage(LFMError):
    """One image that cannot be read, among others that may be."""


@dataclass(frozen=True)
class Piece:
    """Images that are read at once: an array file's, or a single picture.

    `read` gives images (count, H, W, C) uint8, C 1 or 3, and labels (count,) int64 or None. It raises LFMError on
    damage, CorruptImage where the piece is one picture.
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
    files: tuple[Path, ...] = ()
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
    folder = _folder(path, "MNIST's train-images-idx3-ubyte and so on")
    train, test = (_idx_files(folder, part) for part in ("train", "t10k"))
    if train is None:
        raise LFMError(f"{path}: has no train-images-idx3-ubyte or .gz; give the folder that holds MNIST's files")
    parts = [train] if test is None else [train, test]
    labelled = [labels for _, labels in parts if labels is not None]
    if labelled and len(labelled) < len(parts):
        raise LFMError(f"{path}: has {labelled[0].name} but not the other part's labels; add them or remove it")
    pieces = [_idx_piece(images, labels) for images, labels in parts]
    files = tuple(file for part in parts for file in part if file is not None)
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
        raise _damaged(file, error) from error


def read_cifar10(path: Path) -> Layout:
    """A folder of CIFAR-10's binary version: data_batch_1.bin … data_batch_5.bin and test_batch.bin.

    Records of 3073 bytes: the label and 32 x 32 red, green and blue. Classes are those of batches.meta.txt.
    """
    folder = _folder(path, "CIFAR-10's binary version")
    inner = folder / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else folder
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = _all_there(folder, names, "CIFAR-10's binary version (cifar-10-binary.tar.gz), unpacked")
    pieces = tuple(Piece(str(file), _cifar_count(file), partial(_cifar_values, file)) for file in files)
    meta = folder / "batches.meta.txt"
    classes = tuple(meta.read_text().split()) if meta.is_file() else None
    if classes is not None and len(classes) != 10:
        raise LFMError(f"{meta}: names {len(classes)} classes, not 10; copy it anew or remove it")
    return Layout(pieces[:-1], pieces[-1:], (*files, meta) if classes else files, classes)


def _cifar_count(file: Path) -> int:
    size = file.stat().st_size
    if not size or size % CIFAR_RECORD:
        raise LFMError(f"{file}: has {size} bytes, no whole number of {CIFAR_RECORD}-byte records; copy it anew")
    return size // CIFAR_RECORD


def _cifar_values(file: Path) -> tuple[Array, Array | None]:
    try:
        records = np.fromfile(file, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
    except BROKEN as error:
        raise _damaged(file, error) from error
    if (records[:, 0] > 9).any():
        odd = int(np.argmax(records[:, 0] > 9))
        raise LFMError(f"{file}: record {odd} has the label {records[odd, 0]}, not 0 to 9; copy it anew")
    return _planes_last(records[:, 1:]), records[:, 0].astype(np.int64)


def read_imagenet32(path: Path) -> Layout:
    """A folder of ImageNet-32's npz batches: train_data_batch_1.npz … train_data_batch_10.npz and val_data.npz.

    `data` (M, 3072) uint8, 32 x 32 red, green and blue, and `labels` from 1, here from 0.
    """
    folder = _folder(path, "ImageNet-32's npz batches")
    names = [f"train_data_batch_{number}.npz" for number in range(1, 11)] + ["val_data.npz"]
    files = _all_there(folder, names, "ImageNet-32 as npz (Imagenet32_train_npz, Imagenet32_val_npz), in one folder")
    pieces = tuple(_imagenet_piece(file) for file in files)
    return Layout(pieces[:-1], pieces[-1:], files)


def _imagenet_piece(file: Path) -> Piece:
    headers = _npz_headers(file)
    _check_keys(file, headers, ("data", "labels"))
    shape, dtype = headers["data"]
    if len(shape) != 2 or shape[1] != 3072 or dtype != np.uint8:
        raise LFMError(f"{file}: data is {dtype} {shape}, not uint8 (M, 3072); give ImageNet-32's batches")
    _check_labels(file, "labels", headers, shape[0])

    def read() -> tuple[Array, Array | None]:
        labels = _npz_values(file, "labels").astype(np.int64).reshape(-1) - 1
        if labels.min() < 0:
            raise LFMError(f"{file}: labels begin at {labels.min() + 1}, ImageNet-32's at 1; add 1 to each")
        return _planes_last(_npz_values(file, "data")), labels

    return Piece(str(file), shape[0], read)


def read_npz(path: Path) -> Layout:
    """One npz file: `images` (M, H, W) or (M, H, W, C) uint8, or whichever is the only such array, and `labels`.

    Or `x_train`, `y_train`, `x_test` and `y_test`, as keras stores mnist.npz. Labels may be missing.
    """
    if not path.is_file():
        raise LFMError(f"{path}: no such file; give data.path an npz file of images")
    headers = _npz_headers(path)
    if "x_train" in headers:
        train = _npz_piece(path, headers, "x_train", "y_train")
        test = (_npz_piece(path, headers, "x_test", "y_test"),) if "x_test" in headers else ()
        if test and ("y_train" in headers) != ("y_test" in headers):
            raise LFMError(f"{path}: has only one of y_train and y_test; store both, or neither")
        return Layout((train,), test, (path,))
    return Layout((_npz_piece(path, headers, _images_key(path, headers), "labels"),), (), (path,))


def _images_key(path: Path, headers: dict[str, Header]) -> str:
    likely = [key for key, (shape, dtype) in headers.items() if len(shape) in (3, 4) and dtype == np.uint8]
    if "images" in headers or len(likely) == 1:
        return "images" if "images" in headers else likely[0]
    held = ", ".join(f"{key} {dtype} {shape}" for key, (shape, dtype) in headers.items()) or "nothing"
    raise LFMError(f"{path}: holds {held}; store `images` (M, H, W, C) uint8 and `labels` (M,)")


def _npz_piece(path: Path, headers: dict[str, Header], key: str, labels_key: str) -> Piece:
    shape, dtype = headers[key]
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or not all(shape):
        raise LFMError(f"{path}: {key} is {dtype} {shape}, not uint8 (M, H, W) or (M, H, W, 1 or 3); store it so")
    labelled = labels_key in headers
    if labelled:
        _check_labels(path, labels_key, headers, shape[0])

    def read() -> tuple[Array, Array | None]:
        images = _npz_values(path, key).reshape(*shape[:3], -1)
        return images, _npz_values(path, labels_key).astype(np.int64).reshape(-1) if labelled else None

    return Piece(f"{path}: {key}", shape[0], read)


def _check_labels(path: Path, key: str, headers: dict[str, Header], count: int) -> None:
    shape, dtype = headers[key]
    if shape not in ((count,), (count, 1)) or dtype.kind not in "iu":
        raise LFMError(f"{path}: {key} is {dtype} {shape}, not {count} integers, one an image; store it so")


def _check_keys(path: Path, headers: dict[str, Header], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in headers:
            raise LFMError(f"{path}: has no array {key!r}, only {', '.join(headers) or 'none'}; copy it anew")


def _npz_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array of the file, without reading the arrays."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    first = np.lib.format.read_magic(member) == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                    headers[name.removesuffix(".npy")] = (shape, dtype)
    except BROKEN as error:
        raise _damaged(path, error) from error
    return headers


def _npz_values(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except BROKEN as error:
        raise _damaged(path, error) from error


def _planes_last(flat: Array) -> Array:
    """(M, 3 * 32 * 32), red, green and blue planes, to (M, 32, 32, 3)."""
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        told = "is a file" if path.is_file() else "no such folder"
        raise LFMError(f"{path}: {told}; give data.path the folder that holds {what}")
    return path


def _first(folder: Path, names: list[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _all_there(folder: Path, names: list[str], what: str) -> tuple[Path, ...]:
    for name in names:
        if not (folder / name).is_file():
            raise LFMError(f"{folder}: has no {name}; give data.path the folder of {what}")
    return tuple(folder / name for name in names)


def _damaged(file: Path, error: Exception) -> LFMError:
    return LFMError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]}); copy it anew")
