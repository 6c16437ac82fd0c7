"""A folder or zip of pictures: which there are, which part and class they belong to, and decoding them."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lfm_policy.data.image_files import BROKEN, CorruptImage, Layout, Piece
from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
Words = tuple[str, ...]

ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
TRAIN, TEST = "train", ("test", "val", "valid", "validation")  # the first of the latter that is there
# pillow tells of damage by whichever of these its decoders were near
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_folder(path: Path) -> Layout:
    """Every picture of a folder or zip at any depth, in the order of their names; hidden files are none.

    Leading folders that all share are passed over. Then folders `train` and `test` (or `val`, `valid`,
    `validation`), if both are there, are the parts, and what lies outside them is left out. Within a part the first
    folder of every picture is its class, where there are two at least and no picture lies outside one.
    """
    names, read = _walked(path) if path.is_dir() else _zipped(path)
    if not names:
        raise LFMError(f"{path}: holds no picture ({', '.join(ENDINGS)}); give data.path a folder or zip of them")
    train, test = split_parts(names)
    classes = class_names([*train.values(), *test.values()])
    number = {name: index for index, name in enumerate(classes or ())}
    left_out = len(names) - len(train) - len(test)

    # strings rather than paths: a set may have a million pictures
    between = "/" if path.is_dir() else ": "

    def piece(name: str, inner: Words) -> Piece:
        where = f"{path}{between}{name}"
        return Piece(where, 1, partial(_decoded, where, partial(read, name), number[inner[0]] if classes else None))

    parts = [tuple(piece(name, inner) for name, inner in part.items()) for part in (train, test)]
    files = tuple(f"{path}/{name}" for name in names) if path.is_dir() else (str(path),)
    note = f", {left_out} pictures outside its parts left out" if left_out else ""
    return Layout(parts[0], parts[1], files, classes, note)


def split_parts(names: Sequence[str]) -> tuple[dict[str, Words], dict[str, Words]]:
    """Pictures of the training and of the test part, each with the words of its name within the part."""
    words = [tuple(name.split("/")) for name in names]
    folders_of = [word[:-1] for word in words]
    # what the first and the last in order share, all share
    ends = zip(min(folders_of), max(folders_of), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    inner = {name: word[shared:] for name, word in zip(names, words, strict=True)}
    folders = {word[0] for word in inner.values() if len(word) > 1}
    test = next((folder for folder in TEST if folder in folders), None)
    if TRAIN not in folders or test is None:
        return inner, {}
    train_part, test_part = (
        {name: word[1:] for name, word in inner.items() if len(word) > 1 and word[0] == part} for part in (TRAIN, test)
    )
    return train_part, test_part


def class_names(pictures: Sequence[Words]) -> tuple[str, ...] | None:
    """The first folders of all pictures, in order; None if there is one only, or a picture lies outside one."""
    folders = {words[0] if len(words) > 1 else None for words in pictures}
    return tuple(sorted(map(str, folders))) if None not in folders and len(folders) > 1 else None


def decode(data: bytes) -> Array:
    """A picture's pixels (H, W, C) uint8, C 1 where its mode is grey, else 3 (palettes count as colour).

    Turned as its EXIF data say; transparent is white, as elsewhere in the package; of several frames the first.
    Raises one of UNREADABLE on damage, on more than 8 bits a grey pixel, and on sizes that pillow takes for a bomb.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode} has more than 8 bits a pixel")
            mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            return np.asarray(picture.convert(mode)).reshape(picture.height, picture.width, -1)


def _decoded(where: str, read: Callable[[], bytes], label: int | None) -> tuple[Array, Array | None]:
    try:
        image = decode(read())
    except UNREADABLE as error:
        # pillow's own words name an object in memory
        unknown = isinstance(error, UnidentifiedImageError)
        cause = "of no known format" if unknown else " ".join(str(error).split())[:200]
        raise CorruptImage(
            f"{where}: cannot be read as an 8-bit picture ({cause}); replace it, or set data.on_corrupt: skip"
        ) from error
    return image[None], None if label is None else np.array([label])


def _walked(folder: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names below the folder, in order, through links too, and how to read one."""
    names, seen = [], set()

    def refuse(error: OSError) -> None:
        raise LFMError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable") from error

    for directory, inner, files in os.walk(folder, onerror=refuse, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        real = os.path.realpath(directory)
        if real in seen:  # a link back to where the walk has been
            inner.clear()
            continue
        seen.add(real)
        below = directory[len(str(folder)) :].strip(os.sep).replace(os.sep, "/")
        names += [f"{below}/{name}" if below else name for name in files if _is_picture(name)]
    return sorted(names), lambda name: (folder / name).read_bytes()


def _zipped(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names in the zip, in order, and how to read one from it; it stays open, since opening lists all names anew."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise LFMError(
            f"{path}: is no folder and cannot be read as a zip ({' '.join(str(error).split())}); copy it anew"
        ) from error
    return sorted(set(filter(_is_picture, archive.namelist()))), archive.read


def _is_picture(name: str) -> bool:
    """By its ending; not within the hidden folders and resource forks that some systems add."""
    return name.lower().endswith(ENDINGS) and not any(word.startswith((".", "__MACOSX")) for word in name.split("/"))
