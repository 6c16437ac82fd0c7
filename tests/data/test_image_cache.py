"""The image cache: used while it holds, rebuilt when it does not, whole or absent, whoever builds it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.data import image_cache
from lfm_policy.data.images import Images
from lfm_policy.flow.errors import LFMError
from tests.data.image_sets import last, load, noise, write_pictures

IMAGES = noise(5)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    names = [*(f"train/{k}.png" for k in range(3)), *(f"test/{k}.png" for k in range(2))]
    write_pictures(tmp_path / "p", dict(zip(names, IMAGES, strict=True)))
    return tmp_path / "p"


def caches(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def mark(folder: Path) -> None:
    """Change the first pixel of the first image of a cache."""
    pixels = np.load(folder / "pixels.npy", mmap_mode="r+")
    pixels[0, 0, 0, 0] ^= 255
    pixels.flush()


def is_marked(images: Images) -> bool:
    return bool(images.train.pixels[0, 0, 0, 0] == IMAGES[0, 0, 0, 0] ^ 255)


def test_a_cache_is_built_once_and_memory_mapped(pictures: Path, tmp_path: Path) -> None:
    first = load(pictures, "folder")
    assert isinstance(first.train.pixels, np.memmap)
    (folder,) = caches(tmp_path / "cache")
    assert sorted(file.name for file in folder.iterdir()) == ["cache.json", "labels.npy", "pixels.npy"]
    mark(folder)
    second = load(pictures, "folder")
    assert is_marked(second)
    assert second.identity == first.identity
    assert caches(tmp_path / "cache") == [folder]


def touch(path: Path) -> dict[str, Any]:
    os.utime(path / "train" / "1.png", ns=(1, 1))
    return {}


def add(path: Path) -> dict[str, Any]:
    shutil.copy(path / "train" / "1.png", path / "train" / "9.png")
    return {}


def rename(path: Path) -> dict[str, Any]:
    (path / "train" / "1.png").rename(path / "train" / "11.png")
    return {}


CHANGES = {
    "size": lambda path: {"size": 4},
    "channels": lambda path: {"channels": 1},
    "on_corrupt": lambda path: {"on_corrupt": "skip"},
    "n_train": lambda path: {"n_train": 2},
    "n_test": lambda path: {"n_test": 1},
    "time of change": touch,
    "one more": add,
    "name": rename,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_rows_builds_another(pictures: Path, tmp_path: Path, change: str) -> None:
    load(pictures, "folder")
    (folder,) = caches(tmp_path / "cache")
    mark(folder)
    assert not is_marked(load(pictures, "folder", **CHANGES[change](pictures)))
    assert len(caches(tmp_path / "cache")) == 2


def test_the_filter_is_part_of_the_key(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(pictures, "folder", size=4)
    monkeypatch.setattr(image_cache, "FILTER", image_cache.FILTER.__class__.BOX)
    load(pictures, "folder", size=4)
    assert len(caches(tmp_path / "cache")) == 2


def test_the_split_is_part_of_the_key_only_where_it_is_ours(pictures: Path, tmp_path: Path) -> None:
    load(pictures, "folder", seed=0)
    load(pictures, "folder", seed=1, test_fraction=0.3, flips=True)
    assert len(caches(tmp_path / "cache")) == 1
    shutil.rmtree(pictures / "test")
    for seed, fraction in ((0, 0.1), (1, 0.1), (0, 0.5)):
        load(pictures, "folder", seed=seed, test_fraction=fraction)
    assert len(caches(tmp_path / "cache")) == 4


def test_a_set_that_moved_keeps_its_cache(pictures: Path, tmp_path: Path) -> None:
    load(pictures, "folder")
    pictures.rename(tmp_path / "moved")
    load(tmp_path / "moved", "folder")
    assert len(caches(tmp_path / "cache")) == 1


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def other_key(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "key": "another"}))


DAMAGES = {
    "pixels cut": ("pixels.npy", cut),
    "labels cut": ("labels.npy", cut),
    "facts cut": ("cache.json", lambda file: file.write_text(file.read_text()[:30])),
    "facts of another": ("cache.json", other_key),
    "facts of none": ("cache.json", lambda file: file.write_text("[]")),
    "other shape": ("pixels.npy", lambda file: np.save(file, np.zeros((5, 1, 6, 6), dtype=np.uint8))),
    "other dtype": ("pixels.npy", lambda file: np.save(file, np.zeros((5, 3, 6, 6)))),
    "too few labels": ("labels.npy", lambda file: np.save(file, np.load(file)[:-1])),
    "no labels": ("labels.npy", lambda file: file.unlink()),
    "no pixels": ("pixels.npy", lambda file: file.unlink()),
    "no facts": ("cache.json", lambda file: file.unlink()),
    "empty pixels": ("pixels.npy", lambda file: file.write_bytes(b"")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt(pictures: Path, tmp_path: Path, damage: str) -> None:
    first = load(pictures, "folder")
    expected = np.array(first.train.pixels)
    (folder,) = caches(tmp_path / "cache")
    mark(folder)
    name, harm = DAMAGES[damage]
    harm(folder / name)
    second = load(pictures, "folder")
    np.testing.assert_array_equal(second.train.pixels, expected)
    assert second.identity == first.identity
    assert caches(tmp_path / "cache") == [folder]


def test_a_file_in_the_cache_s_place_is_replaced(pictures: Path, tmp_path: Path) -> None:
    load(pictures, "folder")
    (folder,) = caches(tmp_path / "cache")
    shutil.rmtree(folder)
    folder.write_text("in the way")
    np.testing.assert_array_equal(last(load(pictures, "folder").train.pixels), IMAGES[:3])


def test_those_who_build_at_once_all_get_it(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None renames before all have built."""
    barrier, publish = threading.Barrier(4, timeout=60), image_cache._publish

    def publish_together(*args: Any) -> Any:
        barrier.wait()
        return publish(*args)

    monkeypatch.setattr(image_cache, "_publish", publish_together)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(pictures, "folder"), range(4)))
    for images in found:
        np.testing.assert_array_equal(last(images.train.pixels), IMAGES[:3])
    assert len(caches(tmp_path / "cache")) == 1


def test_another_process_s_cache_is_taken_and_a_damaged_one_is_not(pictures: Path, tmp_path: Path) -> None:
    """What lies in the cache's place by the time of the rename, and was not there before."""
    load(pictures, "folder")
    (folder,) = caches(tmp_path / "cache")
    mark(folder)
    mine = shutil.copytree(folder, tmp_path / "cache" / ".building-x")
    assert image_cache._publish(mine, folder, folder.name).pixels[0, 0, 0, 0] == IMAGES[0, 0, 0, 0] ^ 255
    mark(mine)  # back to what the picture has
    cut(folder / "pixels.npy")
    assert image_cache._publish(mine, folder, folder.name).pixels[0, 0, 0, 0] == IMAGES[0, 0, 0, 0]
    assert caches(tmp_path / "cache") == [folder]


def test_a_disk_too_full_is_told_before_anything_is_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))(100, 50, 50)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda path: usage)
    written: list[str] = []
    monkeypatch.setattr(np.lib.format, "open_memmap", lambda *args, **options: written.append(args))
    with pytest.raises(LFMError, match=r"data.cache_dir: .*cache has 5e-08 GB free, the image cache needs .*make room"):
        load(pictures, "folder")
    assert written == []
    assert caches(tmp_path / "cache") == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_build_that_is_cut_short_leaves_nothing(
    pictures: Path, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, "posix_fallocate", fail)
    expected = LFMError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
        load(pictures, "folder")
    assert caches(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LFMError, match=r"data.cache_dir: .*file/below cannot be written"):
        load(pictures, "folder", cache_dir=str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("xdg", [True, False])
def test_the_cache_s_own_place(pictures: Path, tmp_path: Path, xdg: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg") if xdg else "")
    load(pictures, "folder", cache_dir=None)
    home = tmp_path / "xdg" if xdg else tmp_path / "home" / ".cache"
    (folder,) = caches(home / "lfm_policy" / "images")
    assert (folder / "pixels.npy").is_file()
