"""Digits, MNIST's, CIFAR-10's, ImageNet-32's and npz files: every pixel and label back, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lfm_policy.data import image_npz
from lfm_policy.data.images import ImageDataConfig, load_images
from lfm_policy.flow.errors import LFMError
from tests.data.image_sets import last, load, noise, write_bytes, write_cifar10, write_idx, write_imagenet32

LABELS = np.random.default_rng(3).integers(0, 10, 12)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_idx_files_come_back(tmp_path: Path, gz: str) -> None:
    images = noise(12, channels=1)
    write_idx(tmp_path / "m", "train", images[:8], LABELS[:8], gz)
    write_idx(tmp_path / "m", "t10k", images[8:], LABELS[8:], gz)
    found = load(tmp_path / "m", "idx")
    np.testing.assert_array_equal(last(found.train.pixels), images[:8])
    np.testing.assert_array_equal(last(found.test.pixels), images[8:])
    np.testing.assert_array_equal(found.train.labels, LABELS[:8])
    np.testing.assert_array_equal(found.test.labels, LABELS[8:])
    assert found.shape == (1, 6, 6)


def test_idx_files_without_labels_or_test_part(tmp_path: Path) -> None:
    images = noise(12, channels=1)
    write_idx(tmp_path / "m", "train", images, None)
    found = load(tmp_path / "m", "idx", test_fraction=0.25)
    assert (len(found.train), len(found.test)) == (9, 3)
    assert found.train.labels is None
    assert found.test.labels is None


def test_cifar10_comes_back(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path / "c" / "cifar-10-batches-bin")
    for path in (tmp_path / "c", tmp_path / "c" / "cifar-10-batches-bin"):
        found = load(path, "cifar10")
        np.testing.assert_array_equal(last(found.train.pixels), images[:15])
        np.testing.assert_array_equal(last(found.test.pixels), images[15:])
        np.testing.assert_array_equal(found.train.labels, labels[:15])
        np.testing.assert_array_equal(found.test.labels, labels[15:])
        assert found.train.classes == tuple(f"class{number}" for number in range(10))


def test_imagenet32_comes_back_with_labels_from_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_npz, "SLICE", 3072)  # one image at once
    images, labels = write_imagenet32(tmp_path / "i")
    found = load(tmp_path / "i", "imagenet32")
    np.testing.assert_array_equal(last(found.train.pixels), images[:20])
    np.testing.assert_array_equal(last(found.test.pixels), images[20:])
    np.testing.assert_array_equal(found.train.labels, labels[:20] - 1)
    np.testing.assert_array_equal(found.test.labels, labels[20:] - 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_parts_come_back(tmp_path: Path, channels: int, save: Callable[..., None], order: str) -> None:
    images = noise(12, channels=channels)
    stored = np.array(images[..., 0] if channels == 1 else images, order=order)
    parts = {"x_train": stored[:7], "y_train": LABELS[:7], "x_test": stored[7:], "y_test": LABELS[7:, None]}
    save(tmp_path / "a.npz", **{key: np.array(value, order=order) for key, value in parts.items()})
    found = load(tmp_path / "a.npz", "npz")
    np.testing.assert_array_equal(last(found.train.pixels), images[:7])
    np.testing.assert_array_equal(last(found.test.pixels), images[7:])
    np.testing.assert_array_equal(found.train.labels, LABELS[:7])
    np.testing.assert_array_equal(found.test.labels, LABELS[7:])


@pytest.mark.parametrize("key", ["images", "arr_0", "faces"])
def test_npz_arrays_by_name_or_as_the_only_one(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_npz, "SLICE", 500)  # four images of 108 bytes at once: the last slice is short
    images = noise(9)
    other = {"masks": images} if key == "images" else {"weights": np.ones((3, 3, 3))}
    np.savez(tmp_path / "a.npz", labels=np.arange(9), **{key: images}, **other)
    found = load(tmp_path / "a.npz", "npz")
    assert found.train.labels is not None
    assert found.test.labels is not None
    for part in (found.train, found.test):
        np.testing.assert_array_equal(last(part.pixels), images[part.labels])
    assert sorted([*found.train.labels, *found.test.labels]) == list(range(9))


def test_digits_are_scikit_learn_s_spread_over_0_to_255() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    found = load_images(ImageDataConfig())
    assert found.shape == (1, 8, 8)
    ours = [
        (round(float(label)), image[0].astype(float) * 16 / 255)
        for part in (found.train, found.test)
        for image, label in zip(part.pixels, part.labels, strict=True)
    ]
    theirs = list(zip(digits.target, digits.images, strict=True))
    assert len(ours) == len(theirs)

    def key(pair: tuple[int, np.ndarray]) -> tuple[int, ...]:
        return (pair[0], *np.rint(pair[1]).astype(int).ravel())

    for (label, image), (true_label, true_image) in zip(sorted(ours, key=key), sorted(theirs, key=key), strict=True):
        assert label == true_label
        np.testing.assert_allclose(image, true_image, atol=0.5 * 16 / 255 + 1e-9)
    assert found.train.classes is not None
    assert len(found.train.classes) == 10


def good_idx(folder: Path) -> None:
    write_idx(folder, "train", noise(4, channels=1), LABELS[:4])
    write_idx(folder, "t10k", noise(3, channels=1), LABELS[:3])


def idx_file(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        good_idx(folder)
        write_bytes(folder / name, data)

    return write


def idx_without(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        good_idx(folder)
        (folder / name).unlink()

    return write


def cut_gz(folder: Path) -> None:
    write_idx(folder, "train", noise(40, channels=1), None, ".gz")
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])


HEAD = struct.pack(">IIII", 2051, 4, 6, 6)
BAD_IDX = {
    "magic": (
        idx_file("train-images-idx3-ubyte", struct.pack(">IIII", 2049, 4, 6, 6) + bytes(144)),
        "train-images-idx3-ubyte: has the magic number 0x00000801, .* begins with 0x00000803",
    ),
    "labels' magic": (idx_file("t10k-labels-idx1-ubyte", HEAD), "t10k-labels-idx1-ubyte: has the magic number"),
    "short": (idx_file("train-images-idx3-ubyte", HEAD + bytes(140)), "announces 144 bytes, but only 140 follow"),
    "long": (idx_file("train-images-idx3-ubyte", HEAD + bytes(150)), "announces 144 bytes, but more follow"),
    "no header": (idx_file("train-images-idx3-ubyte", HEAD[:9]), "too short for its header"),
    "empty": (idx_file("train-images-idx3-ubyte", b""), "too short for its header"),
    "labels": (
        idx_file("train-labels-idx1-ubyte", struct.pack(">II", 2049, 5) + bytes(5)),
        "train-labels-idx1-ubyte: has 5 labels, but train-images-idx3-ubyte 4 images",
    ),
    "labels of one part": (idx_without("t10k-labels-idx1-ubyte"), "not the other part's labels"),
    "no images": (idx_without("train-images-idx3-ubyte"), "has no train-images-idx3-ubyte"),
    "cut gz": (cut_gz, "train-images-idx3-ubyte.gz: cannot be read"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    write, told = BAD_IDX[case]
    write(tmp_path / "m")
    with pytest.raises(LFMError, match=told) as error:
        load(tmp_path / "m", "idx")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob(".*")), "nothing half-built stays"


def test_a_gz_that_is_none_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "m" / "a", b"")
    (tmp_path / "m" / "train-images-idx3-ubyte.gz").write_bytes(HEAD + bytes(144))
    with pytest.raises(LFMError, match=r"ubyte.gz: cannot be read \(Not a gzipped file"):
        load(tmp_path / "m", "idx")


def test_bad_cifar10_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_cifar10(folder)
    batch = folder / "data_batch_3.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-1])
    with pytest.raises(LFMError, match=r"data_batch_3.bin: has 9218 bytes, no whole number of 3073-byte records"):
        load(folder, "cifar10")
    batch.write_bytes(whole[:3073] + bytes([10]) + whole[3074:])
    with pytest.raises(LFMError, match=r"data_batch_3.bin: record 1 has the label 10"):
        load(folder, "cifar10")
    batch.unlink()
    with pytest.raises(LFMError, match=r"has no data_batch_3.bin; .*binary version"):
        load(folder, "cifar10")
    batch.write_bytes(whole)
    (folder / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(LFMError, match=r"batches.meta.txt: names 2 classes"):
        load(folder, "cifar10")


def test_bad_imagenet32_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    images, labels = write_imagenet32(folder)
    batch, flat = folder / "train_data_batch_7.npz", images[:2].reshape(2, -1)
    for arrays, told in (
        ({"data": flat}, r"batch_7.npz: has no array 'labels', only data"),
        ({"data": flat, "labels": labels[:3]}, r"batch_7.npz: labels is int64 \(3,\), not 2 integers"),
        ({"data": flat[:, 1:], "labels": labels[:2]}, r"data is uint8 \(2, 3071\), not uint8 \(M, 3072\)"),
        ({"data": flat, "labels": labels[:2] * 0}, r"batch_7.npz: labels begin at 0"),
    ):
        np.savez(batch, **arrays)
        with pytest.raises(LFMError, match=told):
            load(folder, "imagenet32")
    batch.unlink()
    with pytest.raises(LFMError, match=r"has no train_data_batch_7.npz"):
        load(folder, "imagenet32")


IMAGES = noise(6)
BAD_NPZ = {
    "no images": ({"weights": np.ones(3)}, r"a.npz: holds weights float64 \(3,\); store `images`"),
    "two": ({"a": IMAGES, "b": IMAGES}, r"holds a uint8 .*, b uint8 .*; store `images`"),
    "float": ({"images": IMAGES / 255}, r"images is float64 \(6, 6, 6, 3\), not uint8"),
    "channels first": ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"images is uint8 \(6, 3, 6, 6\), not uint8"),
    "flat": ({"images": IMAGES.reshape(6, -1)}, r"images is uint8 \(6, 108\)"),
    "none": ({"images": IMAGES[:0]}, r"images is uint8 \(0, 6, 6, 3\)"),
    "labels": ({"images": IMAGES, "labels": np.arange(5)}, r"labels is int64 \(5,\), not 6 integers"),
    "float labels": ({"images": IMAGES, "labels": np.ones(6)}, r"labels is float64 \(6,\), not 6 integers"),
    "one part's labels": (
        {"x_train": IMAGES, "x_test": IMAGES, "y_train": np.arange(6)},
        "has only one of y_train and y_test",
    ),
    "one image": ({"images": IMAGES[:1]}, "holds 1 image; give 2 at least"),
    "objects": ({"images": np.array([None, {}])}, "store|cannot be read"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    arrays, told = BAD_NPZ[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(LFMError, match=told) as error:
        load(tmp_path / "a.npz", "npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("damage", ["cut", "flipped", "none of numpy's"])
def test_damaged_npz_files_are_refused(tmp_path: Path, save: Callable[..., None], damage: str) -> None:
    file = tmp_path / "a.npz"
    save(file, images=noise(200))
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 255
    file.write_bytes({"cut": bytes(data[:-500]), "flipped": bytes(data), "none of numpy's": b"images"}[damage])
    with pytest.raises(LFMError, match=r"a.npz: cannot be read"):
        load(file, "npz")


@pytest.mark.parametrize("name", ["idx", "cifar10", "imagenet32", "npz"])
def test_paths_of_the_wrong_kind_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / ("folder" if name == "npz" else "file")
    with pytest.raises(LFMError, match=f"{path}: is a f"):
        load(path, name)
    with pytest.raises(LFMError, match=r"data.path: .*nothing does not exist"):
        load(tmp_path / "nothing", name)
