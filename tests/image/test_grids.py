"""A grid shows every image pixel for pixel, in its place, on white."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lfm_policy.flow import LFMError
from lfm_policy.image.grids import grid, save_grid

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 5, 9), (3, 32, 32), (3, 300, 260)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
Array = NDArray[np.uint8]


def pixels(n: int, shape: tuple[int, ...]) -> Tensor:
    """Noise without white, so that no pixel of an image passes for paper."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 255, (n, *shape), dtype=torch.uint8, generator=generator)


def shrunk(image: Image.Image) -> tuple[Array, int]:
    """The sheet (H, W, C) before it was enlarged, and the factor: the largest that leaves squares of one colour."""
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    for factor in range(min(array.shape[:2]), 0, -1):
        if array.shape[0] % factor or array.shape[1] % factor:
            continue
        small = array[::factor, ::factor]
        if np.array_equal(small.repeat(factor, 0).repeat(factor, 1), array):
            return small, factor
    raise AssertionError


def tiles(sheet: Array) -> list[tuple[int, int, Array]]:
    """Row, column and pixels (H, W, C) of all that is not paper: places are read off the white lines around them."""
    ink = (sheet != 255).any(-1)
    found = []
    for row, (top, bottom) in enumerate(runs(ink.any(1))):
        for column, (left, right) in enumerate(runs(ink.any(0))):
            tile = sheet[top:bottom, left:right]
            if (tile != 255).any():
                found.append((row, column, tile))
    return found


def runs(line: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Beginnings and ends of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


@every_shape
@pytest.mark.parametrize(("n", "columns"), [(1, None), (4, None), (5, None), (12, 5), (6, 6), (3, 1), (2, 7)])
def test_every_image_is_found_at_its_place(n: int, columns: int | None, shape: tuple[int, ...]) -> None:
    """Row by row; the last row may be short, and the rest of it, and the lines between images, are white."""
    images = pixels(n, shape)
    picture = grid(images, columns)
    assert picture.mode == ("L" if shape[0] == 1 else "RGB")
    wide = columns or math.ceil(math.sqrt(n))
    sheet, _ = shrunk(picture)
    found = tiles(sheet)
    assert [(row, column) for row, column, _ in found] == [divmod(i, wide) for i in range(n)]
    for (_, _, tile), image in zip(found, images, strict=True):
        assert np.array_equal(tile, image.permute(1, 2, 0).numpy())
    assert (sheet != 255).any(-1).sum() == (images != 255).any(1).sum()
    border = [sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]]
    assert all((line == 255).all() for line in border)


@every_shape
def test_small_images_are_enlarged_by_a_whole_factor_until_they_can_be_seen(shape: tuple[int, ...]) -> None:
    """Nine of them; large ones are left as they are."""
    picture = grid(pixels(9, shape))
    sheet, factor = shrunk(picture)
    assert picture.size == (sheet.shape[1] * factor, sheet.shape[0] * factor)
    assert min(picture.size) >= 320
    assert factor == 1 or min(picture.size) < 2 * 480


def test_a_square_of_images_is_laid_out_as_a_square() -> None:
    for side in range(1, 9):
        width, height = grid(pixels(side**2, (3, 8, 8))).size
        assert width == height


def test_given_columns_lay_trajectories_out_one_to_a_row() -> None:
    """An image's moments side by side: (n, moments, C, H, W) flattened."""
    moments = pixels(15, (3, 4, 4)).reshape(3, 5, 3, 4, 4)
    sheet, _ = shrunk(grid(moments.flatten(0, 1), 5))
    for row, column, tile in tiles(sheet):
        assert np.array_equal(tile, moments[row, column].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)], ids=str)
def test_a_png_holds_the_grid(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Read by a library that did not write it, and an earlier file of that name is replaced."""
    import matplotlib.image

    file = tmp_path / "grid.png"
    file.write_text("an earlier one")
    save_grid(file, pixels(5, shape))
    want = np.asarray(grid(pixels(5, shape)))
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), want)
    assert np.array_equal((matplotlib.image.imread(file) * 255).round(), want)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("place", ["missing/grid.png", "file/grid.png", "folder"])
def test_a_place_that_cannot_be_written_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LFMError) as caught:
        save_grid(tmp_path / place, pixels(2, (1, 8, 8)))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / place}: cannot be written (")
    assert "\n" not in line
    assert sorted(tmp_path.rglob("*")) == before
