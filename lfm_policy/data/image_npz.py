"""Image sets in numpy's zipped arrays: any npz file of images, and ImageNet-32's batches; read in slices."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.image_files import BROKEN, Layout, Piece, all_there, damaged, folder_of, planes_last
from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
Header = tuple[tuple[int, ...], np.dtype[Any]]
SLICE = 1 << 24  # bytes of an array in memory at once


def read_imagenet32(path: Path) -> Layout:
    """A folder of ImageNet-32's npz batches: train_data_batch_1.npz … train_data_batch_10.npz and val_data.npz.

    `data` (M, 3072) uint8, 32 x 32 red, green and blue, and `labels` from 1, here from 0.
    """
    folder = folder_of(path, "ImageNet-32's npz batches")
    names = [f"train_data_batch_{number}.npz" for number in range(1, 11)] + ["val_data.npz"]
    files = all_there(folder, names, "ImageNet-32 as npz (Imagenet32_train_npz, Imagenet32_val_npz), in one folder")
    pieces = tuple(_imagenet_piece(file) for file in files)
    return Layout(pieces[:-1], pieces[-1:], tuple(map(str, files)))


def _imagenet_piece(file: Path) -> Piece:
    headers = _headers(file)
    _check_keys(file, headers, ("data", "labels"))
    shape, dtype = headers["data"]
    if len(shape) != 2 or shape[1] != 3072 or dtype != np.uint8:
        raise LFMError(f"{file}: data is {dtype} {shape}, not uint8 (M, 3072); give ImageNet-32's batches")
    _check_labels(file, "labels", headers, shape[0])

    def read() -> tuple[Iterable[Array], Array | None]:
        labels = _values(file, "labels").astype(np.int64).reshape(-1) - 1
        if labels.min() < 0:
            raise LFMError(f"{file}: labels begin at {labels.min() + 1}, ImageNet-32's at 1; add 1 to each")
        return (image for rows in _slices(file, "data") for image in planes_last(rows)), labels

    return Piece(str(file), shape[0], read)


def read_npz(path: Path) -> Layout:
    """One npz file: `images` (M, H, W) or (M, H, W, C) uint8, or whichever is the only such array, and `labels`.

    Or `x_train`, `y_train`, `x_test` and `y_test`, as keras stores mnist.npz. Labels may be missing.
    """
    if not path.is_file():
        raise LFMError(f"{path}: is a folder; give data.path an npz file of images")
    headers = _headers(path)
    if "x_train" in headers:
        train = _npz_piece(path, headers, "x_train", "y_train")
        test = (_npz_piece(path, headers, "x_test", "y_test"),) if "x_test" in headers else ()
        if test and ("y_train" in headers) != ("y_test" in headers):
            raise LFMError(f"{path}: has only one of y_train and y_test; store both, or neither")
        return Layout((train,), test, (str(path),))
    return Layout((_npz_piece(path, headers, _images_key(path, headers), "labels"),), (), (str(path),))


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

    def read() -> tuple[Iterable[Array], Array | None]:
        images = (image.reshape(*shape[1:3], -1) for rows in _slices(path, key) for image in rows)
        return images, _values(path, labels_key).astype(np.int64).reshape(-1) if labelled else None

    return Piece(f"{path}: {key}", shape[0], read)


def _check_labels(path: Path, key: str, headers: dict[str, Header], count: int) -> None:
    shape, dtype = headers[key]
    if shape not in ((count,), (count, 1)) or dtype.kind not in "iu":
        raise LFMError(f"{path}: {key} is {dtype} {shape}, not {count} integers, one an image; store it so")


def _check_keys(path: Path, headers: dict[str, Header], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in headers:
            raise LFMError(f"{path}: has no array {key!r}, only {', '.join(headers) or 'none'}; copy it anew")


def _headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array of the file, without reading the arrays."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    shape, _, dtype = _header(member)
                    headers[name.removesuffix(".npy")] = (shape, dtype)
    except BROKEN as error:
        raise damaged(path, error) from error
    return headers


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of the array whose values follow."""
    first = np.lib.format.read_magic(member) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _values(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except BROKEN as error:
        raise damaged(path, error) from error


def _slices(path: Path, key: str) -> Iterator[Array]:
    """The rows of a uint8 array, so many at once as SLICE bytes hold, all of them where the order is Fortran's."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            shape, fortran, _ = _header(member)
            n_rows = max(1, SLICE // int(np.prod(shape[1:])))
            for start in range(0, 0 if fortran else shape[0], n_rows):
                rows = (min(n_rows, shape[0] - start), *shape[1:])
                yield np.frombuffer(member.read(int(np.prod(rows))), dtype=np.uint8).reshape(rows)
    except BROKEN as error:
        raise damaged(path, error) from error
    if fortran:
        yield _values(path, key)
