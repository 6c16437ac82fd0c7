"""Sets of images: what size, channels and splits do to them, a flow's view of them, and odd sets refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lfm_policy.data.image_preparation import prepared
from lfm_policy.data.images import ImageDataConfig, ImageSet, ImageSource, load_images, to_pixels, to_unit
from lfm_policy.flow import Source
from lfm_policy.flow.errors import LFMError
from tests.data.image_sets import load, noise, write_idx, write_pictures

Array = NDArray[Any]


def test_units_and_pixels_are_inverse() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    x = to_unit(pixels)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256))
    assert to_pixels(x).tolist() == pixels.tolist()
    assert to_pixels(to_unit(torch.from_numpy(pixels))).dtype == torch.uint8
    assert to_pixels(torch.tensor([-9.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]
    off = to_pixels(x + torch.tensor([0.49, -0.49]).repeat(128) / 127.5)
    assert off.tolist() == pixels.tolist(), "rounded to the nearest"


def test_a_source_gives_the_set_and_its_mirror_images() -> None:
    images = noise(5).transpose(0, 3, 1, 2)
    source: Source = ImageSource(ImageSet(images), flips=True)
    assert len(source) == 10
    index = torch.tensor([4, 5, 0, 9])
    x, condition = source.batch(index)
    assert condition is None
    assert x.shape == (4, 3, 6, 6)
    expected = np.concatenate([images, images[..., ::-1]])[index.numpy()]
    torch.testing.assert_close(x, torch.from_numpy(expected / 127.5 - 1).float())
    plain = ImageSource(ImageSet(images))
    assert len(plain) == 5
    torch.testing.assert_close(plain.batch(torch.arange(5))[0], source.batch(torch.arange(5))[0])


def test_a_batch_of_a_cache_is_its_own(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """It may be written to, though the cache may not, and torch has nothing to warn of."""
    np.savez(tmp_path / "a.npz", images=noise(6))
    found = load(tmp_path / "a.npz", "npz")
    before = np.array(found.train.pixels)
    ImageSource(found.train).batch(torch.tensor([0, 1]))[0].zero_()
    to_unit(found.train.pixels).zero_()
    np.testing.assert_array_equal(found.train.pixels, before)
    assert not [str(warning.message) for warning in recwarn if "writ" in str(warning.message)]


def weights(n_in: int, n_out: int) -> Array:
    """(n_out, n_in): Keys' cubic (a = -1/2), widened by the scale where it shrinks."""
    scale = n_in / n_out
    wide = max(scale, 1)
    distance = np.abs(np.arange(n_in) + 0.5 - (np.arange(n_out)[:, None] + 0.5) * scale) / wide
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    cubic = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return cubic / cubic.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(32, 8), (30, 7), (8, 20), (9, 9)])
def test_resizing_is_the_plain_antialiased_cubic(side: int, size: int, channels: int) -> None:
    image = noise(1, side, side, channels)[0]
    rows = weights(side, size)
    across = np.einsum("ij,hjc->hic", rows, image.astype(float)).round().clip(0, 255)
    expected = np.einsum("ij,jwc->iwc", rows, across).clip(0, 255)
    found = prepared(image, size, None)
    assert found.shape == (channels, size, size)
    # pillow rounds between the passes, too: there a tie may fall to either side
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1.5)


@pytest.mark.parametrize(("height", "width"), [(6, 11), (6, 12), (11, 6), (12, 6)])
def test_the_centre_is_cropped(height: int, width: int) -> None:
    """Exactly where nothing is resized; where it is, what lies far from the centre square counts nothing."""
    image = noise(1, height, width)[0]
    top, left = (height - 6) // 2, (width - 6) // 2
    np.testing.assert_array_equal(prepared(image, 6, None), image[top : top + 6, left : left + 6].transpose(2, 0, 1))
    large = np.kron(image, np.ones((8, 8, 1), dtype=np.uint8))
    other = np.full_like(large, 77)
    top, left, reach = (large.shape[0] - 48) // 2, (large.shape[1] - 48) // 2, 2 * 8
    near = tuple(slice(max(0, start - reach), start + 48 + reach) for start in (top, left))
    other[near] = large[near]
    np.testing.assert_array_equal(prepared(large, 6, None), prepared(other, 6, None))


def test_resizing_a_ramp_keeps_its_centre() -> None:
    """A linear ramp, resized, is linear again: its middle is the middle of the picture, whichever side is longer."""
    ramp = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (20, 100, 1))
    for image, axis in ((ramp, 2), (ramp.transpose(1, 0, 2), 1)):
        found = prepared(np.ascontiguousarray(image), 5, None)
        inner = found.mean(axis=3 - axis)[0]
        np.testing.assert_allclose(inner, 99 + 8 * (np.arange(5) - 2), atol=1)


def test_channels_are_converted_by_luma_and_repeated() -> None:
    image = noise(1)[0]
    luma = image.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(prepared(image, None, 1)[0], luma, atol=1)
    grey = image[..., :1]
    np.testing.assert_array_equal(prepared(grey, None, 3), np.stack([grey[..., 0]] * 3))
    np.testing.assert_array_equal(prepared(image, None, 3), image.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["folder", "npz", "digits"])
def test_size_and_channels_reach_every_format(tmp_path: Path, name: str) -> None:
    images = noise(8, 6, 9)
    write_pictures(tmp_path / "folder", {f"{k}.png": image for k, image in enumerate(images)})
    np.savez(tmp_path / "npz", images=images)
    path = {"folder": "folder", "npz": "npz.npz"}.get(name)
    config = ImageDataConfig(
        name, path and str(tmp_path / path), size=4, channels=1, cache_dir=str(tmp_path / "cache"), test_fraction=0.3
    )
    found = load_images(config)
    assert found.shape == (1, 4, 4)
    assert found.identity["size"] == [4, 4]
    assert found.identity["channels"] == 1
    if name != "digits":
        ours = sorted(image.tobytes() for part in (found.train, found.test) for image in part.pixels)
        assert ours == sorted(prepared(image, 4, 1).tobytes() for image in images)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """An npz of 40 images, each labelled with its number, which is its first pixel too."""
    images = noise(40)
    images[:, 0, 0, 0] = np.arange(40)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40))
    return tmp_path / "a.npz"


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_a_held_out_part_is_disjoint_complete_and_seeded(numbered: Path, fraction: float) -> None:
    parts = {}
    for seed in (0, 1):
        found = load(numbered, "npz", seed, test_fraction=fraction)
        assert found.train.labels is not None
        assert found.test.labels is not None
        assert sorted([*found.train.labels, *found.test.labels]) == list(range(40))
        assert abs(len(found.test) - fraction * 40) <= 1
        for part in (found.train, found.test):
            np.testing.assert_array_equal(part.pixels[:, 0, 0, 0], part.labels)
            assert (np.diff(part.labels) > 0).all(), "the order of the file"
        parts[seed] = found.test.labels.tolist()
        again = load(numbered, "npz", seed, test_fraction=fraction, cache_dir=str(numbered.parent / "other"))
        assert again.identity == found.identity
    assert parts[0] != parts[1]


def test_the_first_so_many_of_a_part_are_taken(numbered: Path) -> None:
    whole, some = (
        load(numbered, "npz", test_fraction=0.3),
        load(numbered, "npz", test_fraction=0.3, n_train=5, n_test=7),
    )
    np.testing.assert_array_equal(some.train.pixels, whole.train.pixels[:5])
    np.testing.assert_array_equal(some.test.pixels, whole.test.pixels[:7])
    assert whole.test.labels is not None
    np.testing.assert_array_equal(some.test.labels, whole.test.labels[:7])
    for field, count, available in (("n_train", 29, 28), ("n_test", 13, 12)):
        with pytest.raises(LFMError, match=rf"data.{field}: {count} is more than the {available} images"):
            load(numbered, "npz", test_fraction=0.3, **{field: count})


def test_identity_is_that_of_what_is_learned_from(numbered: Path) -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return load(numbered, "npz", **settings).identity

    first = identity()
    assert first["file"] == "a.npz"
    assert (first["n_train"], first["n_test"], first["skipped"]) == (36, 4, 0)
    hashes = {
        first["sha256"],
        identity(channels=1)["sha256"],
        identity(size=5)["sha256"],
        identity(n_train=9)["sha256"],
    }
    assert len(hashes) == 4
    assert identity(n_test=1)["sha256"] == first["sha256"]
    assert identity(n_test=1)["test_sha256"] != first["test_sha256"]
    stored = dict(np.load(numbered))
    for key, index in (("images", (0, 0, 0, 0)), ("images", (39, 5, 5, 2)), ("labels", (0,)), ("labels", (39,))):
        changed = {**stored, key: stored[key].copy()}
        changed[key][index] += 1
        np.savez(numbered, **changed)
        other = identity()
        assert (other["sha256"], other["test_sha256"]) != (first["sha256"], first["test_sha256"])
    np.savez(numbered, images=stored["images"])
    assert identity()["sha256"] != first["sha256"], "without labels"
    np.savez_compressed(numbered, **stored)
    assert identity() == first, "however it is stored"


def test_identity_names_the_folder_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "p" / "a", {f"{k}.png": image for k, image in enumerate(noise(3))})
    identities = [load(tmp_path / "p" / "a", "folder").identity]
    for start, path in (("p", "a"), ("p/a", "."), ("p/a", "../a/")):
        monkeypatch.chdir(tmp_path / start)
        identities.append(load(Path(path), "folder", cache_dir=str(tmp_path / "p" / "cache")).identity)
    assert identities == [{**identities[0], "file": "a"}] * 4
    assert len(list((tmp_path / "p" / "cache").iterdir())) == 1


def test_a_set_is_the_same_whatever_its_format(tmp_path: Path) -> None:
    images = noise(12, channels=1)
    write_idx(tmp_path / "m", "train", images[:8], None)
    write_idx(tmp_path / "m", "t10k", images[8:], None)
    names = [f"{'train' if k < 8 else 'test'}/{k:02}.png" for k in range(12)]
    write_pictures(tmp_path / "p", dict(zip(names, images, strict=True)))
    np.savez(tmp_path / "a.npz", x_train=images[:8], x_test=images[8:])
    found = [load(tmp_path / path, name) for path, name in (("m", "idx"), ("p", "folder"), ("a.npz", "npz"))]
    assert len({(one.identity["sha256"], one.identity["test_sha256"]) for one in found}) == 1


def test_progress_is_told_of_every_image(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", {f"{k}.png": image for k, image in enumerate(noise(7))})
    told: list[int] = []
    config = ImageDataConfig("folder", str(tmp_path / "p"), cache_dir=str(tmp_path / "cache"))
    load_images(config, progress=told.append)
    assert sum(told) == 7
    load_images(config, progress=told.append)
    assert sum(told) == 7, "a cache is not built again"


def test_grey_images_in_a_colour_set_are_refused_unless_converted(tmp_path: Path) -> None:
    images = noise(4)
    pictures = {f"{k}.png": image if k != 2 else image[..., :1] for k, image in enumerate(images)}
    write_pictures(tmp_path / "p", pictures)
    with pytest.raises(LFMError, match=r"p/2.png: is grey, but .*p/0.png in colour; set data.channels: 3 or 1"):
        load(tmp_path / "p", "folder")
    for channels in (1, 3):
        assert load(tmp_path / "p", "folder", channels=channels).shape == (channels, 6, 6)


def test_mixed_sizes_are_refused_unless_resized(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p", {"0.png": noise(1)[0], "1.png": noise(1, 7, 8)[0], "2.png": noise(1, 9, 9)[0]})
    with pytest.raises(LFMError, match=r"p/1.png: is 8 x 7 pixels, but .*p/0.png 6 x 6; set data.size"):
        load(tmp_path / "p", "folder")
    assert load(tmp_path / "p", "folder", size=5).shape == (3, 5, 5)
    np.savez(tmp_path / "a.npz", images=noise(3, 4, 6))
    with pytest.raises(LFMError, match=r"a.npz: images: image 0: is 6 x 4 pixels, not square; set data.size"):
        load(tmp_path / "a.npz", "npz")


def test_a_path_is_needed_except_for_digits(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"data.path: '.*' is given, but digits come with scikit-learn"):
        load_images(ImageDataConfig(path=str(tmp_path)))
    with pytest.raises(LFMError, match=r"data.path: is not given, but cifar10 is read from files"):
        load_images(ImageDataConfig("cifar10"))


BAD_CONFIGS = {
    "name": ({"name": "cifar"}, r"data.name: 'cifar' is unknown; did you mean 'cifar10'\?"),
    "channels": ({"channels": 4}, r"data.channels: 4 must be 1 \(grey\), 3"),
    "size": ({"size": 0}, "data.size: 0 must be 1 or more"),
    "n_train": ({"n_train": -1}, "data.n_train: -1 must be 1 or more"),
    "n_test": ({"n_test": 0}, "data.n_test: 0 must be 1 or more"),
    "test_fraction": ({"test_fraction": 1.0}, r"data.test_fraction: 1.0 must be above 0 and below 1"),
    "no test": ({"test_fraction": 0.0}, r"data.test_fraction: 0.0 must be above 0 and below 1"),
    "on_corrupt": ({"on_corrupt": "ignore"}, "data.on_corrupt: 'ignore' must be refuse or skip"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_settings_are_refused(case: str) -> None:
    settings, told = BAD_CONFIGS[case]
    with pytest.raises(LFMError, match=told):
        ImageDataConfig(**settings)
