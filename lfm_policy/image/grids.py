"""Grids of images as PNG files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lfm_policy.evaluation.files import replacing

GAP = 2  # pixels between images, before enlarging
LEAST = 480  # pixels of a grid's shorter side: small images are enlarged by whole factors
PAPER = 255


def grid(pixels: Tensor, columns: int | None = None) -> Image.Image:
    """Images (n, C, H, W) of uint8 in rows of `columns` (about a square, if not given) on white."""
    n, c, h, w = pixels.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), PAPER, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + (i // columns) * (h + GAP), GAP + (i % columns) * (w + GAP)
        sheet[:, top : top + h, left : left + w] = image
    array = sheet.permute(1, 2, 0).numpy()
    drawn = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if c == 1 else array))
    factor = max(1, round(LEAST / min(drawn.size)))
    return drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)


def save_grid(path: str | Path, pixels: Tensor, columns: int | None = None) -> None:
    """Write a grid as PNG; LFMError where that is impossible."""
    with replacing(path) as temporary:
        grid(pixels, columns).save(temporary, format="PNG")
