"""BSDS300 cut from photographs that the test draws itself."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfm_policy.data.bsds import patches, read_photographs, split_photographs
from lfm_policy.data.tables import Table, load_table
from lfm_policy.flow.errors import LFMError

COUNTS = {"train": 20, "val": 5}
Save = Callable[[str, bytes], None]


def photograph(index: int, ending: str) -> bytes:
    """24 x 30 or 30 x 24 pixels of noise about a brightness of its own."""
    rng = np.random.default_rng(index)
    shape = (24, 30, 3) if index % 2 else (30, 24, 3)
    file = io.BytesIO()
    colours = np.clip(rng.normal(10 * index, 20, shape), 0, 255).astype(np.uint8)
    Image.fromarray(colours).save(file, format={"jpg": "JPEG", "png": "PNG"}[ending])
    return file.getvalue()


def write(path: Path, ending: str = "jpg", root: str = "images/") -> Path:
    """A folder, or a zip if the path ends so, with what else lies beside photographs."""
    names = [f"{part}/{index + 100 * (part == 'val')}" for part, count in COUNTS.items() for index in range(count)]
    files = {f"{root}{name}.{ending}": photograph(int(name.split("/")[1]) % 89, ending) for name in names}
    files |= {f"{root}train/Thumbs.db": b"x", f"{root}train/._7.jpg": b"x", f"{root}test/7.jpg": b"x"}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write(tmp_path / "photos.zip")


def load(path: Path, **settings: int) -> Table:
    return load_table("bsds300", str(path), **({"n_train": 3000, "n_valid": 300, "n_test": 500} | settings))


def test_shapes_and_origin(photos: Path) -> None:
    table = load(photos)
    assert (table.train.shape, table.valid.shape, table.test.shape) == ((3000, 63), (300, 63), (500, 63))
    assert table.train.dtype == np.float32
    assert len(table.columns) == 63
    assert "18 train, 2 valid, 5 test photographs" in table.source


def test_a_folder_gives_what_a_zip_gives_at_any_depth(tmp_path: Path, photos: Path) -> None:
    for path in (write(tmp_path / "plain", root=""), write(tmp_path / "BSDS500", root="data/images/")):
        np.testing.assert_array_equal(load(path).train, load(photos).train)


def test_patches_have_no_mean_and_the_last_pixel_is_dropped() -> None:
    """A photograph of one patch: what was drawn is known but for the noise in [0, 1)."""
    grey = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    cut = patches([grey], 50, np.random.default_rng(1))
    last = -cut.sum(axis=1, keepdims=True)  # zero mean over all 64
    whole = np.hstack([cut, last]) * 256
    offset = whole - grey.ravel()
    noise = offset - offset.min(axis=1, keepdims=True)
    assert noise.max() < 1
    assert noise.std() == pytest.approx(1 / np.sqrt(12), abs=0.02)
    np.testing.assert_allclose(whole.mean(axis=1), 0, atol=1e-3)


def test_patches_come_from_everywhere_alike() -> None:
    """Photographs of one grey value each, with a mark at a place of its own."""
    photographs = [np.zeros((8, 9 + index), dtype=np.uint8) for index in range(3)]
    for index, grey in enumerate(photographs):
        grey[index, 8] = 200
    cut = patches(photographs, 9000, np.random.default_rng(0)).reshape(-1, 63)
    marked = cut.max(axis=1) > 0.5
    row, column = np.divmod(cut[marked].argmax(axis=1), 8)
    assert marked.sum() / 9000 == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3, abs=0.02)
    np.testing.assert_allclose(np.bincount(row) / 9000, [1 / 6, 2 / 9, 1 / 4], atol=0.02)
    assert set(column) == {5, 6, 7}


def test_train_validation_and_test_share_no_photograph(photos: Path) -> None:
    known, unknown = read_photographs(photos)
    assert list(known) == sorted(known)
    assert not set(known) & set(unknown)
    train, valid = split_photographs(list(known), 0)
    assert sorted(train + valid) == sorted(known)
    assert (len(train), len(valid)) == (18, 2)
    assert split_photographs(list(known), 1)[1] != valid


def test_the_seed_decides_everything(photos: Path) -> None:
    one, again, other = (load(photos, seed=seed) for seed in (3, 3, 4))
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(one, part), getattr(again, part))
        assert not np.array_equal(getattr(one, part), getattr(other, part))


def test_luminance_is_weighted_and_rounded(tmp_path: Path) -> None:
    path = write(tmp_path / "png.zip", "png")
    known, _ = read_photographs(path)
    colours = np.asarray(Image.open(io.BytesIO(photograph(3, "png"))), dtype=float)
    expected = 0.2989 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]
    assert known["3.png"].dtype == np.uint8
    np.testing.assert_array_equal(known["3.png"], np.round(expected))


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def test_what_is_refused(tmp_path: Path, photos: Path) -> None:
    good, tiny = photograph(1, "jpg"), io.BytesIO()
    Image.new("L", (7, 20)).save(tiny, format="PNG")
    (tmp_path / "cut.zip").write_bytes(photos.read_bytes()[:2000])
    refused = {
        tmp_path / "no.zip": "no such file",
        tmp_path / "cut.zip": "cannot be read as a zip",
        archive(tmp_path / "none.zip", {"readme.txt": b"x"}): "holds no photograph in a folder `train`",
        archive(tmp_path / "half.zip", {"train/1.jpg": good}): "holds no photograph in a folder `val`",
        archive(tmp_path / "bad.zip", {"train/1.jpg": good[:60]}): "train/1.jpg: cannot be read as a picture",
        archive(tmp_path / "tiny.zip", {"train/1.png": tiny.getvalue()}): "train/1.png: 7 x 20 pixels; patches need",
        archive(tmp_path / "one.zip", {"train/1.jpg": good, "val/2.jpg": good}): "1 training photograph",
    }
    for path, message in refused.items():
        with pytest.raises(LFMError, match=message):
            load(path)
