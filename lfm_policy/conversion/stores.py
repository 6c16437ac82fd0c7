"""Where plain arrays are kept: npz files and zarr stores; opened lazily, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lfm_policy.conversion.arrays import ENDS, ENV_ARGS
from lfm_policy.conversion.recording import Array
from lfm_policy.flow.errors import LFMError

ZARR_SUFFIXES = (".zarr", ".zarr.zip")
# frames of a chunk: about what Diffusion Policy's stores have
CHUNK = 161


def is_zarr(path: Path) -> bool:
    """Whether a path is named like a zarr store."""
    return path.name.endswith(ZARR_SUFFIXES)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an npz file by name; LFMError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if isinstance(arrays, np.lib.npyio.NpzFile):
                return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise LFMError(f"{path}: cannot be read, truncated or no npz ({error}); copy or save it anew") from error
    raise LFMError(f"{path}: is one array, not an npz file of several; save it with np.savez")


@contextmanager
def open_zarr(path: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of a Diffusion Policy store by name, read when sliced: `data/*` and `meta/episode_ends`.

    LFMError without the package zarr, or if there is no such store.
    """
    zarr = _zarr()
    try:
        store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path)
        root = zarr.open_group(store, mode="r")
        arrays = dict(root["data"].arrays())
        arrays |= {name: array for name, array in root["meta"].arrays() if name == ENDS}
        if ENV_ARGS in root.attrs:
            arrays[ENV_ARGS] = np.array(str(root.attrs[ENV_ARGS]))
        yield arrays
    except LFMError:
        # what is done with the arrays has its own to say
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise LFMError(
            f"{path}: is no zarr store with groups data and meta, or damaged ({told}); copy it anew"
        ) from error


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed npz file."""
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_zarr(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a zarr store of version 2, which Diffusion Policy's code reads; a zip if `path` ends in .zip."""
    with _replacing(path) as temporary:
        if not path.name.endswith(".zip"):
            _fill(temporary, arrays)
            return
        # zarr writes into a zip what it changes a second time, and a zip has no way to replace
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, zipfile.ZipFile(temporary, "w") as archive:
            _fill(Path(folder), arrays)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))


def _fill(folder: Path, arrays: Mapping[str, Array]) -> None:
    """Write the arrays into a store that is a folder."""
    zarr = _zarr()
    root = zarr.create_group(zarr.storage.LocalStore(folder), zarr_format=2)
    for name, array in arrays.items():
        if name == ENV_ARGS:
            root.attrs[name] = str(array)
            continue
        chunks = (min(CHUNK, len(array)), *array.shape[1:])
        group = "meta" if name == ENDS else "data"
        root.create_array(f"{group}/{name}", data=array, chunks=chunks)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file or folder beside `path`; takes its place on success, removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise LFMError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _zarr() -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError as error:
        raise LFMError(f"zarr stores need the package zarr ({error}); pip install 'lfm_policy[zarr]'") from error
    return zarr
