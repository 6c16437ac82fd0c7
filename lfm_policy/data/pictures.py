"""A picture as a density: dark is dense. Exact samples, likelihoods and entropy, and two drawings of our own.

FFJORD's way of sampling a picture (Grathwohl et al. 2019), read as what it is: a mixture of one Gaussian a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import convolve1d
from scipy.spatial import cKDTree
from scipy.special import xlogy

from lfm_policy.data.toys import in_chunks
from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
REACH = 8  # pixels from a point: what lies beyond is 15 standard deviations away
FAR = 1e-30  # of a point's sum of weights times exp(-d^2 / 2): below this what lies beyond REACH would count


@dataclass(frozen=True, eq=False)
class PixelMixture:
    """p(x) = sum_p w_p N(x; m_p, diag((4/w)^2, (4/h)^2)) over the pixels p of a picture on [-4, 4]^2.

    `weights` (h, w) add up to 1, the bottom row first; the centres m_p are linspace(-4, 4, w) x linspace(-4, 4, h).
    """

    weights: Array

    @classmethod
    def of_grey(cls, grey: Array, where: str) -> PixelMixture:
        """From grey values (h, w), top row first, dark is dense; LFMError if all of them are equal."""
        if min(grey.shape) < 2:
            raise LFMError(f"{where}: a picture of {grey.shape[1]} x {grey.shape[0]} pixels; give 2 x 2 at least")
        if not np.isfinite(grey).all():
            raise LFMError(f"{where}: has pixels that are NaN or infinite; save it with finite grey values")
        darkness = grey.max() - np.flipud(grey).astype(np.float64)
        if darkness.max() == 0:
            raise LFMError(f"{where}: every pixel is {grey.flat[0]:g}; give a picture with something dark on light")
        return cls(darkness / darkness.sum())

    @property
    def sigma(self) -> Array:
        """Standard deviation in x and y: half a pixel, nearly."""
        return np.array([4 / self.weights.shape[1], 4 / self.weights.shape[0]])

    @cached_property
    def _dark(self) -> tuple[cKDTree, Array]:
        """Centres in standard deviations, as a tree, and log weights (K,) of the pixels that are not white."""
        row, column = np.nonzero(self.weights)
        return cKDTree(self._centre(row, column) / self.sigma), np.log(self.weights[row, column])

    @cached_property
    def _padded(self) -> Array:
        """The weights within a frame of REACH empty pixels."""
        return np.pad(self.weights, REACH)

    def _centre(self, row: Array, column: Array) -> Array:
        height, width = self.weights.shape
        return np.stack([8 * column / (width - 1) - 4, 8 * row / (height - 1) - 4], axis=-1)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent draws, (n, 2) float64."""
        pixel = rng.choice(self.weights.size, size=n, p=self.weights.ravel())
        centre = self._centre(*np.divmod(pixel, self.weights.shape[1]))
        return centre + self.sigma * rng.standard_normal((n, 2))

    def log_prob(self, x: Array) -> Array:
        """(B, 2) to (B,) nats, to rounding, however far from the picture."""
        return in_chunks(self._log_prob, x)

    def _log_prob(self, x: Array) -> Array:
        norm = math.log(2 * math.pi * self.sigma.prod())
        near = self._near(x)
        far = near < FAR
        result = np.log(np.where(far, 1, near)) - norm
        if far.any():
            result[far] = self._far(x[far] / self.sigma) - norm
        return result

    def _far(self, x: Array) -> Array:
        """The mixture's logarithm without its norm at (B, 2) points, in standard deviations, off the drawing.

        The pixels that count lie hardly further than the nearest one: |x - m|^2 / 2 within the 40 nats of rounding
        and what the weights and the number of pixels can make up for.
        """
        tree, log_weights = self._dark
        nats = 40 + np.ptp(log_weights) + math.log(len(log_weights))
        nearest, _ = tree.query(x)
        lists = tree.query_ball_point(x, np.sqrt(nearest**2 + 2 * nats), return_sorted=False)
        counts = np.array([len(found) for found in lists])
        pixel, point = np.concatenate(lists).astype(np.int64), np.repeat(np.arange(len(x)), counts)
        exponent = log_weights[pixel] - 0.5 * ((x[point] - tree.data[pixel]) ** 2).sum(axis=1)
        first = np.cumsum(counts) - counts
        largest = np.maximum.reduceat(exponent, first)
        return largest + np.log(np.add.reduceat(np.exp(exponent - largest[point]), first))

    def _near(self, x: Array) -> Array:
        """The mixture without its norm, from the (2 REACH + 1)^2 pixels about each of (B, 2) points."""
        window = np.arange(2 * REACH + 1)
        factors, first = [], []
        for axis, count in ((0, self.weights.shape[1]), (1, self.weights.shape[0])):
            position = np.clip((x[:, axis] + 4) / 8, -1, 2) * (count - 1)
            nearest = np.clip(np.rint(position).astype(np.int64), 0, count - 1)
            distance = (nearest[:, None] + window - REACH) * (8 / (count - 1)) - 4 - x[:, axis, None]
            factors.append(np.exp(-0.5 * (distance / self.sigma[axis]) ** 2))
            first.append(nearest)
        windows = np.lib.stride_tricks.sliding_window_view(self._padded, (len(window), len(window)))
        return np.einsum("byx,bx,by->b", windows[first[1], first[0]], factors[0], factors[1], optimize=True)

    def entropy(self, points_per_pixel: int = 4) -> float:
        """Differential entropy in nats, by the trapezoid rule on a grid that divides the pixels; good to 1e-7.

        All grid points at one offset within their pixel are one separable convolution of the weights.
        """
        spacing = np.array([8 / (self.weights.shape[1] - 1), 8 / (self.weights.shape[0] - 1)])
        total = 0.0
        for offset_y in np.arange(points_per_pixel) / points_per_pixel:
            rows = convolve1d(self._padded, self._kernel(1, offset_y, spacing), axis=0, mode="constant")
            for offset_x in np.arange(points_per_pixel) / points_per_pixel:
                density = convolve1d(rows, self._kernel(0, offset_x, spacing), axis=1, mode="constant")
                total -= float(xlogy(density, density).sum())
        return total * float(spacing.prod()) / points_per_pixel**2

    def _kernel(self, axis: int, offset: float, spacing: Array) -> Array:
        """The Gaussian of one pixel at the points `offset` pixels right of (above) pixels -REACH to REACH."""
        sigma = self.sigma[axis]
        distance = (np.arange(-REACH, REACH + 1) + offset) * spacing[axis]
        return np.exp(-0.5 * (distance / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)


def read_grey(path: str | Path) -> Array:
    """Grey values (h, w) of any picture file, top row first, 16 bits or floats as they are; transparent is white.

    Raises LFMError if the file is missing or no picture that pillow reads.
    """
    file = Path(path)
    if not file.is_file():
        raise LFMError(f"{file}: no such file; give the path of a picture, such as a PNG")
    try:
        with Image.open(file) as opened:
            return grey_of(ImageOps.exif_transpose(opened))
    # pillow tells of damage by whichever of these its decoders were near
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        cause = " ".join(str(error).split())[:200]
        raise LFMError(f"{file}: cannot be read as a picture ({cause}); save it as a PNG") from error


def grey_of(picture: Image.Image) -> Array:
    """Grey values (h, w) of a pillow picture of any mode."""
    if picture.mode.startswith(("I", "F")):
        return np.asarray(picture, dtype=np.float64)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return np.asarray(picture.convert("L"), dtype=np.float64)


def draw_rose() -> Array:
    """A rose of eight petals, r = 115 cos(4 a) pixels, as a line drawing: (256, 256) float64, 0 on 255."""
    angle = np.linspace(0, 2 * math.pi, 20000)
    radius = 115 * np.cos(4 * angle)
    curve = 127.5 + np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    pixels = np.argwhere(np.ones((256, 256)))
    distance, _ = cKDTree(curve).query(pixels)
    return np.where(distance <= 6.2 / 2, 0.0, 255.0).reshape(256, 256)


def draw_tree() -> Array:
    """A fractal tree of nine levels, two branches at +-27.5 degrees on each: (450, 530) float64, 0 on 255."""
    black = np.zeros((450, 530), dtype=bool)
    tips = [(np.array([264.5, 425.0]), 0.0)]  # column and row, and the angle from upright
    for level in range(9):
        length, width = 125 * 0.735**level, 0.98 * max(14 * 0.72**level, 1.6)
        grown = []
        for start, angle in tips:
            end = start + length * np.array([math.sin(angle), -math.cos(angle)])
            _stroke(black, start, end, width / 2)
            grown += [(end, angle - math.radians(27.5)), (end, angle + math.radians(27.5))]
        tips = grown
    return np.where(black, 0.0, 255.0)


def _stroke(black: Array, start: Array, end: Array, half_width: float) -> None:
    """Blacken, in place, the pixels within `half_width` of the line from `start` to `end`, (column, row) each."""
    low = np.floor(np.minimum(start, end) - half_width).astype(int).clip(0)
    high = np.ceil(np.maximum(start, end) + half_width).astype(int) + 1
    box = black[low[1] : high[1], low[0] : high[0]]
    pixels = np.indices(box.shape)[::-1].transpose(1, 2, 0) + low
    along = (((pixels - start) @ (end - start)) / ((end - start) @ (end - start))).clip(0, 1)  # round caps
    box |= np.linalg.norm(pixels - start - along[..., None] * (end - start), axis=-1) <= half_width
