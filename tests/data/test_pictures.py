"""Pictures as densities: the mixture against a plain sum over its pixels, and pictures of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import logsumexp

from lfm_policy.data.pictures import PixelMixture, draw_rose, draw_tree, read_grey
from lfm_policy.flow.errors import LFMError

DRAWINGS = {"rose": (draw_rose, 2.480332, 10_772), "tree": (draw_tree, 1.954992, 20_170)}


@pytest.fixture
def grey() -> np.ndarray:
    """Seven rows, five columns; half of them white."""
    rng = np.random.default_rng(0)
    return np.where(rng.random((7, 5)) < 0.5, 255, rng.integers(0, 250, (7, 5))).astype(np.uint8)


def plain_log_prob(grey: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel."""
    height, width = grey.shape
    weight = (grey.max() - grey[::-1]).astype(float)
    columns, rows = np.meshgrid(np.linspace(-4, 4, width), np.linspace(-4, 4, height))
    squares = ((x[:, 0, None, None] - columns) * width / 4) ** 2 + ((x[:, 1, None, None] - rows) * height / 4) ** 2
    norm = math.log(2 * math.pi * 16 / (width * height))
    return logsumexp(-0.5 * squares - norm, b=weight / weight.sum(), axis=(1, 2))


@pytest.mark.parametrize("limit", [5, 50, 2000])
def test_likelihood_is_the_plain_sum(grey: np.ndarray, limit: float) -> None:
    x = np.random.default_rng(1).uniform(-limit, limit, (200, 2))
    np.testing.assert_allclose(PixelMixture.of_grey(grey, "a").log_prob(x), plain_log_prob(grey, x), rtol=1e-9)


def test_likelihood_of_a_large_picture_is_the_plain_sum_near_and_far() -> None:
    drawing = draw_rose()[::2, 1::2]
    x = np.random.default_rng(1).uniform(-6, 6, (100, 2))
    np.testing.assert_allclose(PixelMixture.of_grey(drawing, "a").log_prob(x), plain_log_prob(drawing, x), rtol=1e-9)


def test_mass_is_one_and_the_entropy_is_the_grid_s(grey: np.ndarray) -> None:
    mixture = PixelMixture.of_grey(grey, "a")
    edge = np.linspace(-14, 14, 281)
    points = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    log_prob = mixture.log_prob(points)
    mass = np.exp(log_prob) * (edge[1] - edge[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=1e-9)
    assert mixture.entropy(8) == pytest.approx(-(mass * log_prob).sum(), abs=1e-7)
    assert mixture.entropy() == pytest.approx(mixture.entropy(8), abs=1e-6)


@pytest.mark.parametrize("name", DRAWINGS)
def test_our_drawings_have_their_recorded_entropies(name: str) -> None:
    draw, entropy, n_black = DRAWINGS[name]
    drawing = draw()
    assert set(np.unique(drawing)) == {0.0, 255.0}
    assert (drawing == 0).sum() == n_black
    mixture = PixelMixture.of_grey(drawing, name)
    assert mixture.entropy() == pytest.approx(entropy, abs=1e-5)
    assert mixture.entropy(8) == pytest.approx(mixture.entropy(), abs=1e-7)
    surprise = -mixture.log_prob(mixture.sample(20_000, np.random.default_rng(0)))
    assert abs(surprise.mean() - entropy) < 4 * surprise.std() / math.sqrt(len(surprise))


@pytest.mark.parametrize("name", DRAWINGS)
def test_samples_have_the_density_s_moments(name: str) -> None:
    mixture = PixelMixture.of_grey(DRAWINGS[name][0](), name)
    height, width = mixture.weights.shape
    x, y = np.linspace(-4, 4, width), np.linspace(-4, 4, height)
    mean = np.array([mixture.weights.sum(axis=0) @ x, mixture.weights.sum(axis=1) @ y])
    square = np.array([mixture.weights.sum(axis=0) @ x**2, mixture.weights.sum(axis=1) @ y**2]) + mixture.sigma**2
    samples = mixture.sample(100_000, np.random.default_rng(5))
    for power, exact in ((samples, mean), (samples**2, square)):
        error = power.std(axis=0) / math.sqrt(len(samples))
        assert (np.abs(power.mean(axis=0) - exact) < 4 * error).all()


def test_the_picture_stands_upright() -> None:
    grey = np.full((4, 6), 255)
    grey[0, -1] = 0
    samples = PixelMixture.of_grey(grey, "a").sample(2000, np.random.default_rng(0))
    np.testing.assert_allclose(samples.mean(axis=0), [4, 4], atol=0.1)
    np.testing.assert_allclose(samples.std(axis=0), [4 / 6, 1], rtol=0.1)


def test_the_darker_the_denser() -> None:
    weights = PixelMixture.of_grey(np.array([[10, 30, 90], [90, 90, 90]]), "a").weights
    np.testing.assert_allclose(weights, [[0, 0, 0], [80 / 140, 60 / 140, 0]])


def transparent(picture: Image.Image) -> Image.Image:
    """Black everywhere, and the lighter the picture the less opaque."""
    picture = picture.convert("L")
    black = Image.new("RGBA", picture.size, "black")
    black.putalpha(picture.point(lambda value: 255 - value))
    return black


def deep(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture, dtype=np.uint16) * 257)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda picture: picture,
    "colours": lambda picture: picture.convert("RGB"),
    "palette": lambda picture: picture.convert("P"),
    "alpha": transparent,
    "grey and alpha": lambda picture: transparent(picture).convert("LA"),
    "16 bits": deep,
    "black and white": lambda picture: picture.point(lambda value: 255 * (value > 128)).convert("1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_same_density(kind: str, tmp_path: Path, grey: np.ndarray) -> None:
    picture = Image.fromarray(np.where(grey > 128, 255, 0).astype(np.uint8) if kind == "black and white" else grey)
    KINDS[kind](picture).save(tmp_path / "a.png")
    weights = PixelMixture.of_grey(read_grey(tmp_path / "a.png"), "a").weights
    np.testing.assert_allclose(weights, PixelMixture.of_grey(np.asarray(picture), "a").weights, atol=1e-3)


@pytest.mark.parametrize(
    ("grey", "message"),
    [
        (np.full((4, 4), 255), "every pixel is 255; give a picture with something dark"),
        (np.zeros((4, 4)), "every pixel is 0"),
        (np.zeros((1, 4)), "4 x 1 pixels"),
        (np.array([[0, np.nan], [1, 2]]), "NaN or infinite"),
    ],
)
def test_pictures_without_a_density(grey: np.ndarray, message: str) -> None:
    with pytest.raises(LFMError, match=f"a.png: .*{message}"):
        PixelMixture.of_grey(grey, "a.png")


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    Image.fromarray(draw_rose().astype(np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "text.png").write_text("x,y\n1,2\n")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "cut.png", "empty.png"):
        with pytest.raises(LFMError, match=f"{name}: cannot be read as a picture .*; save it as a PNG"):
            read_grey(tmp_path / name)
    for name in ("missing.png", "."):
        with pytest.raises(LFMError, match="no such file"):
            read_grey(tmp_path / name)
