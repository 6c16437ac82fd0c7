"""A memory-mapped cache of an image set as it is learned from: built once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.image_building import Allocate, Progress, Recipe, Rows, build
from lfm_policy.data.image_files import Layout
from lfm_policy.data.image_preparation import FILTER
from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
VERSION = 1  # counts on where the same files and settings come to give other rows
PIXELS, LABELS, FACTS = "pixels.npy", "labels.npy", "cache.json"
RESERVE = 1 << 20  # bytes of a disk left for headers and the rest


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/lfm_policy/images, or ~/.cache/lfm_policy/images."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lfm_policy" / "images"


def cached(layout: Layout, recipe: Recipe, path: Path, cache_dir: str | None, progress: Progress | None = None) -> Rows:
    """The set's rows out of the cache, which is built if it is not there, is damaged, or is of other files.

    Raises LFMError on what `build` refuses, and where the cache cannot be written or does not fit on its disk.
    """
    key = cache_key(layout, recipe, path)
    home = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder = home / key
    rows = read_rows(folder, key)
    if rows is not None:
        return rows
    try:
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=home))
    except OSError as error:
        raise LFMError(f"data.cache_dir: {home} cannot be written ({error.strerror}); choose another") from error
    try:
        _write(temporary, key, recipe, lambda allocate: build(layout, recipe, str(path), allocate, progress))
        return _publish(temporary, folder, key)
    except OSError as error:
        raise LFMError(
            f"data.cache_dir: {home} cannot be written ({error.strerror or error}); choose another"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cache_key(layout: Layout, recipe: Recipe, path: Path) -> str:
    """40 hexadecimal digits over the recipe and every file's relative name, size and time of change."""
    held_out = (recipe.test_fraction, recipe.seed) if not layout.test else None
    settings = {**asdict(recipe), "test_fraction": None, "seed": None, "held_out": held_out}
    settings |= {"version": VERSION, "filter": FILTER.name}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    root = path if path.is_dir() else path.parent
    for file in layout.files:
        try:
            status = os.stat(file)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # a link to nothing: a picture that cannot be read, as whoever reads it will tell
            state = "missing"
        digest.update(f"\n{file.removeprefix(f'{root}/')} {state}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:40]


def read_rows(folder: Path, key: str) -> Rows | None:
    """The rows of a cache, memory-mapped; None if there is none or a part of it is damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text())
        pixels = np.load(folder / PIXELS, mmap_mode="r")
        labels = np.load(folder / LABELS)
        whole = (
            facts["key"] == key
            and (list(pixels.shape), pixels.dtype) == (facts["shape"], np.uint8)
            and (labels.shape, labels.dtype) == (pixels.shape[:1], np.int64)
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Rows(pixels, labels, facts["rows"]) if whole else None


def _write(folder: Path, key: str, recipe: Recipe, fill: Callable[[Allocate], Rows]) -> None:
    rows = fill(lambda shape: _allocate(folder, shape))
    assert isinstance(rows.pixels, np.memmap)
    rows.pixels.flush()
    np.save(folder / LABELS, rows.labels)
    facts = {"key": key, "shape": rows.pixels.shape, "rows": rows.facts, "recipe": asdict(recipe)}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def _allocate(folder: Path, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A memory-mapped array on disk space that is already taken, and labels in memory."""
    needed, free = int(np.prod(shape, dtype=np.int64)) + 8 * shape[0] + RESERVE, shutil.disk_usage(folder).free
    if needed > free:
        raise LFMError(
            f"data.cache_dir: {folder.parent} has {free / 1e9:.3g} GB free, the image cache needs "
            f"{needed / 1e9:.3g} GB; make room or choose another disk"
        )
    file = folder / PIXELS
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # writing to a mapped page of a full disk would end the process
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return pixels, np.full(shape[0], -1, dtype=np.int64)


def _publish(temporary: Path, folder: Path, key: str) -> Rows:
    """Rename what was built, unless another process was faster; a damaged cache in its place goes."""
    for _ in range(3):
        try:
            temporary.rename(folder)
        except OSError:
            rows = read_rows(folder, key)
            if rows is not None:
                return rows
            _remove(folder)
            continue
        break
    rows = read_rows(folder, key)
    if rows is None:
        raise LFMError(f"data.cache_dir: {folder} cannot be written whole; remove it, or choose another")
    return rows


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
