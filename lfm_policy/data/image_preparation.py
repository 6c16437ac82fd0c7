"""From an image as its file has it to one of the set's: channels, size, and what must be alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
FILTER = Image.Resampling.BICUBIC  # pillow widens it when it shrinks: antialiased


def prepared(image: Array, size: int | None, channels: int | None) -> Array:
    """An image (H, W, C) as (C, h, w) uint8: centre-cropped to a square, resized to `size`, of `channels` channels.

    The centre square of the shorter side becomes size x size, the same as resizing the shorter side to `size` and
    cropping the centre, without the rounding of the longer side. Grey is ITU-R 601's luma.
    """
    height, width, own = image.shape
    channels = channels or own
    if channels == own and size in (None, height) and (size is None or height == width):
        return image.transpose(2, 0, 1)
    picture = Image.fromarray(image[..., 0] if own == 1 else np.ascontiguousarray(image))
    if channels != own:
        picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.resize((size, size), FILTER, box=(left, top, left + side, top + side))
    return np.asarray(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)


@dataclass
class Alike:
    """Refuses an image that is unlike the first one, where no setting makes them alike."""

    size: int | None
    channels: int | None
    first: tuple[str, tuple[int, ...]] | None = None

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """LFMError if an image (H, W, C) is not square or unlike the first in size or channels."""
        if self.first is None:
            self.first = (name, shape)
        other, expected = self.first
        if self.size is None and shape[:2] != expected[:2]:
            raise LFMError(f"{name}: is {_told(shape)} pixels, but {other} {_told(expected)}; set data.size")
        if self.size is None and shape[0] != shape[1]:
            raise LFMError(f"{name}: is {_told(shape)} pixels, not square; set data.size to crop and resize")
        if self.channels is None and shape[2] != expected[2]:
            kind = {1: "grey", 3: "in colour"}
            raise LFMError(
                f"{name}: is {kind[shape[2]]}, but {other} {kind[expected[2]]}; set data.channels: 3 or 1 for all"
            )


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
