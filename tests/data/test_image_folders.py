"""Folders and zips of pictures: formats, order, parts and classes, transparency, and what cannot be read."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lfm_policy.data import image_folders
from lfm_policy.data.image_folders import decode, read_folder
from lfm_policy.flow.errors import LFMError
from tests.data.image_sets import last, load, noise, write_pictures


def zipped(folder: Path) -> Path:
    """A zip of the folder, its files in no order, and what other systems add."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), key=lambda file: file.name[::-1]):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent).as_posix())
        archive.writestr("__MACOSX/._a.png", b"resource fork")
        archive.writestr(f"{folder.name}/._a.png", b"resource fork")
        archive.writestr(f"{folder.name}/notes.txt", b"notes")
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("ending", ["png", "bmp", "PNG", "tiff", "ppm", "webp"])
def test_pictures_come_back_in_the_order_of_their_names(tmp_path: Path, ending: str, kind: str) -> None:
    images = noise(8)
    names = [f"{'a' if k < 5 else 'b'}/deep/{k}.{ending}" for k in range(8)]
    write_pictures(tmp_path / "p", dict(zip(names[::-1], images[::-1], strict=True)))
    if ending == "webp":
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image).save(tmp_path / "p" / name, lossless=True)
    layout = read_folder(tmp_path / "p" if kind == "folder" else zipped(tmp_path / "p"))
    read = [piece.read() for piece in layout.train]
    np.testing.assert_array_equal(np.concatenate([list(found) for found, _ in read]), images)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), [0] * 5 + [1] * 3)
    assert layout.classes == ("a", "b")


def test_jpegs_are_pillow_s(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", dict(zip(["train/0.jpg", "test/1.JPEG"], noise(2), strict=True)))
    found = load(tmp_path / "p", "folder")
    for part, name in ((found.train, "train/0.jpg"), (found.test, "test/1.JPEG")):
        np.testing.assert_array_equal(last(part.pixels)[0], np.asarray(Image.open(tmp_path / "p" / name)))


@pytest.mark.parametrize("test", ["test", "val", "validation"])
@pytest.mark.parametrize("wrap", ["", "flowers/"])
def test_top_folders_are_the_parts(tmp_path: Path, test: str, wrap: str) -> None:
    images = noise(6)
    names = ["train/b/0.png", "train/a/1.png", "train/c/2.png", f"{test}/c/3.png", f"{test}/b/4.png", "more/x/5.png"]
    write_pictures(tmp_path / "p", {wrap + name: image for name, image in zip(names, images, strict=True)})
    found = load(tmp_path / "p", "folder")
    np.testing.assert_array_equal(last(found.train.pixels), images[[1, 0, 2]])
    np.testing.assert_array_equal(last(found.test.pixels), images[[4, 3]])
    assert found.train.classes == found.test.classes == ("a", "b", "c")
    np.testing.assert_array_equal(found.train.labels, [0, 1, 2])
    np.testing.assert_array_equal(found.test.labels, [1, 2])
    assert "1 pictures outside its parts left out" in found.source


@pytest.mark.parametrize(
    "names",
    [
        ["0.png", "1.png", "2.png"],
        ["a/0.png", "a/1.png", "a/2.png"],
        ["a/0.png", "b/1.png", "2.png"],
        ["train/0.png", "train/1.png", "test/2.png"],
        ["train/x/0.png", "train/x/1.png", "test/x/2.png"],
    ],
)
def test_no_classes_where_folders_name_none(tmp_path: Path, names: list[str]) -> None:
    write_pictures(tmp_path / "p", dict(zip(names, noise(3), strict=True)))
    found = load(tmp_path / "p", "folder")
    assert found.train.labels is found.test.labels is found.train.classes is None
    assert len(found.train) == 2


def test_linked_folders_are_walked_and_loops_end(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", {"1.png": noise(1)[0]})
    write_pictures(tmp_path / "p", {"a/0.png": noise(1)[0], ".hidden/2.png": noise(1)[0]})
    (tmp_path / "p" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p" / "a" / "loop").symlink_to(tmp_path / "p")
    layout = read_folder(tmp_path / "p")
    assert list(layout.files) == [f"{tmp_path}/p/a/0.png", f"{tmp_path}/p/b/1.png"]
    assert layout.classes == ("a", "b")


def test_a_link_to_nothing_is_an_unreadable_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", {f"{k}.png": image for k, image in enumerate(noise(3))})
    (tmp_path / "p" / "3.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(LFMError, match=r"p/3.png: cannot be read as an 8-bit picture .*No such file"):
        load(tmp_path / "p", "folder")
    assert load(tmp_path / "p", "folder", on_corrupt="skip").skipped == 1


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures would be missing unseen."""
    write_pictures(tmp_path / "p", {f"{'ab'[k]}/{k}.png": image for k, image in enumerate(noise(2))})
    listed = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(LFMError, match=r"p/b: cannot be listed \(Permission denied\)"):
        load(tmp_path / "p", "folder")


def saved(picture: Image.Image, file: Path, **options: object) -> np.ndarray:
    picture.save(file, **options)
    return decode(file.read_bytes())


def test_transparent_is_white(tmp_path: Path) -> None:
    rgba = noise(1, channels=4)[0]
    alpha = rgba[..., 3:] / 255.0
    over_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(saved(Image.fromarray(rgba), tmp_path / "a.png"), over_white, atol=1)
    grey = rgba[..., :1] * alpha + 255 * (1 - alpha)
    found = saved(Image.fromarray(rgba[..., [0, 3]], "LA"), tmp_path / "b.png")
    assert found.shape == (6, 6, 1)
    np.testing.assert_allclose(found, grey, atol=1)


def test_palettes_bits_and_cmyk_become_colour_or_grey(tmp_path: Path) -> None:
    palette = np.array([[255, 0, 0], [0, 255, 0], [7, 8, 9]], dtype=np.uint8)
    numbers = np.arange(36).reshape(6, 6) % 3
    picture = Image.fromarray(numbers.astype(np.uint8), "P")
    picture.putpalette(palette.ravel().tolist())
    for ending in ("png", "gif", "bmp"):
        np.testing.assert_array_equal(saved(picture, tmp_path / f"a.{ending}"), palette[numbers])
    see_through = saved(picture, tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(see_through, np.where(numbers[..., None] == 1, 255, palette[numbers]))
    bits = saved(Image.fromarray(numbers == 1), tmp_path / "c.png")
    np.testing.assert_array_equal(bits[..., 0], np.where(numbers == 1, 255, 0))
    assert saved(Image.new("CMYK", (6, 5), (0, 255, 255, 0)), tmp_path / "d.tif").tolist() == [[[255, 0, 0]] * 6] * 5


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    image = noise(1, 4, 7)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = saved(Image.fromarray(image), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(found, np.rot90(image, -1))


def damage(file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file.read_bytes()
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
        Image.new("RGB", (7, 6)).save(file)
    elif kind == "vast bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
        Image.new("RGB", (70, 60)).save(file)
    elif kind == "16 bits":
        Image.fromarray(np.zeros((6, 6), dtype=np.uint16)).save(file)
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        file.write_bytes({"cut": whole[:-40], "empty": b"", "text": b"no picture", "flipped": flipped}[kind])


DAMAGES = ["cut", "empty", "text", "flipped", "16 bits", "bomb", "vast bomb"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("how", DAMAGES)
def test_an_unreadable_picture_is_refused_or_skipped(
    tmp_path: Path, how: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(6)
    write_pictures(tmp_path / "p", {f"{part}/{k}.png": images[k] for k in range(6) for part in ("train", "test")})
    damage(tmp_path / "p" / "train" / "2.png", how, monkeypatch)
    path = tmp_path / "p" if kind == "folder" else zipped(tmp_path / "p")
    with pytest.raises(LFMError, match=r"train/2.png: cannot be read as an 8-bit picture .*; .*on_corrupt: skip") as e:
        load(path, "folder")
    assert "\n" not in str(e.value)
    assert "BytesIO" not in str(e.value)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-built stays"
    for _ in range(2):  # built, and from the cache
        found = load(path, "folder", on_corrupt="skip")
        np.testing.assert_array_equal(last(found.train.pixels), np.delete(images, 2, axis=0))
        np.testing.assert_array_equal(last(found.test.pixels), images)
        assert found.skipped == found.identity["skipped"] == 1
        assert found.identity["n_train"] == len(found.train) == 5


def test_a_zip_s_own_damage_is_found(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", {f"{k}.bmp": image for k, image in enumerate(noise(3))})
    path = zipped(tmp_path / "p")
    data = bytearray(path.read_bytes())
    data[data.index(b"BM") + 100] ^= 255  # a pixel: pillow would not notice, the zip's checksum does
    path.write_bytes(data)
    with pytest.raises(LFMError, match=r"p.zip: p/\d.bmp: cannot be read as an 8-bit picture \(Bad CRC-32"):
        load(path, "folder")
    assert load(path, "folder", on_corrupt="skip").skipped == 1
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(LFMError, match=r"p.zip: is no folder and cannot be read as a zip"):
        load(path, "folder")


def test_empty_folders_and_zips_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p" / "deep").mkdir(parents=True)
    (tmp_path / "p" / "deep" / "notes.txt").write_text("none")
    for path in (tmp_path / "p", zipped(tmp_path / "p")):
        with pytest.raises(LFMError, match=f"{path}: holds no picture"):
            load(path, "folder")


def test_a_set_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", {"train/0.png": noise(1)[0], "test/1.png": noise(1)[0]})
    (tmp_path / "p" / "test" / "1.png").write_bytes(b"")
    with pytest.raises(LFMError, match=r"holds no readable image to test on \(1 skipped\)"):
        load(tmp_path / "p", "folder", on_corrupt="skip")
    with pytest.raises(LFMError, match=r"data.n_train: 2 is more than the 1 images"):
        load(tmp_path / "p", "folder", n_train=2)
    shutil.copy(tmp_path / "p" / "test" / "1.png", tmp_path / "p" / "train" / "2.png")
    shutil.copy(tmp_path / "p" / "train" / "0.png", tmp_path / "p" / "test" / "3.png")
    with pytest.raises(LFMError, match=r"data.n_train: 2 is more than the 1 readable images .*\(2 skipped\)"):
        load(tmp_path / "p", "folder", n_train=2, on_corrupt="skip")


def test_pictures_are_read_one_at_a_time_and_no_more_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "p", {f"{part}/{k}.png": noise(1)[0] for k in range(9) for part in ("train", "test")})
    decoded: list[int] = []
    monkeypatch.setattr(image_folders, "decode", lambda data: decoded.append(len(data)) or decode(data))
    layout = read_folder(tmp_path / "p")
    assert (len(layout.train), decoded) == (9, [])
    layout.train[4].read()
    assert len(decoded) == 1
    load(tmp_path / "p", "folder", n_train=3, n_test=2)
    assert len(decoded) == 1 + 5
