"""Image sets in the published layouts, written byte by byte: what the readers' tests read."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lfm_policy.data.images import ImageDataConfig, Images, load_images

Array = NDArray[Any]


def noise(count: int, height: int = 6, width: int = 6, channels: int = 3, seed: int = 0) -> Array:
    """(count, H, W, C) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def load(path: Path, name: str, seed: int = 0, **settings: Any) -> Images:
    """The set at `path`, its cache in a folder beside."""
    settings = {"cache_dir": str(path.parent / "cache"), **settings}
    return load_images(ImageDataConfig(name=name, path=str(path), **settings), seed)


def last(pixels: Array) -> Array:
    """(M, C, H, W) with the channels last."""
    return np.asarray(pixels).transpose(0, 2, 3, 1)


def write_bytes(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        with gzip.open(file, "wb") as opened:
            opened.write(data)
    else:
        file.write_bytes(data)


def write_idx(folder: Path, part: str, images: Array, labels: Array | None, gz: str = "") -> None:
    """MNIST's two files of a part: big-endian magic number and sizes, then the bytes."""
    head = struct.pack(">IIII", 2051, *images.shape[:3])
    write_bytes(folder / f"{part}-images-idx3-ubyte{gz}", head + images.tobytes())
    if labels is not None:
        data = struct.pack(">II", 2049, len(labels)) + bytes(labels.tolist())
        write_bytes(folder / f"{part}-labels-idx1-ubyte{gz}", data)


def write_cifar10(folder: Path, n_batch: int = 3, names: bool = True) -> tuple[Array, Array]:
    """Six batches in CIFAR-10's records; their images (6 n, 32, 32, 3) and labels, the test batch last."""
    images, labels = noise(6 * n_batch, 32, 32), np.random.default_rng(1).integers(0, 10, 6 * n_batch)
    for number in range(6):
        file = folder / ("test_batch.bin" if number == 5 else f"data_batch_{number + 1}.bin")
        records = b""
        for k in range(number * n_batch, (number + 1) * n_batch):
            red, green, blue = (images[k, :, :, channel].tobytes() for channel in range(3))
            records += bytes([labels[k]]) + red + green + blue
        write_bytes(file, records)
    if names:
        (folder / "batches.meta.txt").write_text("".join(f"class{number}\n" for number in range(10)) + "\n")
    return images, labels


def write_imagenet32(folder: Path, n_batch: int = 2) -> tuple[Array, Array]:
    """Eleven npz batches, labels from 1; images (11 n, 32, 32, 3) and labels from 1, validation last."""
    folder.mkdir()
    images, labels = noise(11 * n_batch, 32, 32), np.random.default_rng(1).integers(1, 1001, 11 * n_batch)
    flat = np.concatenate([images[..., channel].reshape(len(images), -1) for channel in range(3)], axis=1)
    for number in range(11):
        rows = slice(number * n_batch, (number + 1) * n_batch)
        name = "val_data" if number == 10 else f"train_data_batch_{number + 1}"
        np.savez(folder / name, data=flat[rows], labels=labels[rows], mean=flat.mean(axis=0))
    return images, labels


def write_pictures(folder: Path, images: dict[str, Array]) -> None:
    """Pictures by name, (H, W, C) each, in the format of their ending."""
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / name)
