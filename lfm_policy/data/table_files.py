"""Tables of numbers in CSV, text, npy, npz and Parquet files, and what makes a table fit for a density."""

from __future__ import annotations

import csv
import gzip
import os
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
# A file's columns by name, each read only when asked for: text that nobody chose does no harm
Columns = tuple[list[str], Callable[[list[int]], Array]]


def read_numbers(path: str | Path, columns: Sequence[str] | None = None) -> tuple[Array, tuple[str, ...]]:
    """The numbers of a table file and their columns' names: (M, d) and d names, `columns` alone and in that order.

    `.csv` and `.tsv` (also `.gz`; comma, semicolon or tab; a first line of numbers is no header), `.txt` (numbers
    between blanks, a first line of words is left out), `.npy`, `.npz` (its only array, or `file.npz:key`), `.parquet`.
    Columns without names are x0, x1, and so on. float32 stays, all else becomes float64. Raises LFMError if the file
    is missing, damaged, empty or of another ending, if a chosen column is unknown, doubly named or not numeric, and
    if the array is not 2-D.
    """
    file, key = _file_and_key(path)
    names, read = _reader(file)(file, key)
    chosen = _chosen(names, columns, str(path))
    with readable(file):
        values = read(chosen)
    if len(values) == 0:
        raise LFMError(f"{path}: has no rows; give a table of numbers")
    return values, tuple(names[index] for index in chosen)


def check_table(values: Array, columns: Sequence[str], where: str) -> None:
    """Raise LFMError unless a density can be fitted to `values` (M, d): finite, no constant column, M >= d.

    `columns` are d names and `where` is the file or table that the error begins with; rows count from 0.
    """
    check_finite(values, columns, where)
    if len(values) < max(values.shape[1], 2):
        raise LFMError(
            f"{where}: {len(values)} rows for {values.shape[1]} columns; give more rows, or choose fewer columns"
        )
    constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0))
    if len(constant):
        named = ", ".join(f"{columns[index]!r} is always {values[0, index]:g}" for index in constant[:5])
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        raise LFMError(f"{where}: constant columns have no density: {named}{more}; leave them out with `columns`")


def check_finite(values: Array, columns: Sequence[str], where: str) -> None:
    """Raise LFMError with the first NaN or infinity of `values` (M, d), its column and its row."""
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        others = int(finite.size - finite.sum()) - 1
        more = f", and {others} more are not finite" if others else ""
        place = f"column {columns[column]!r}, row {row}"
        value = "NaN" if np.isnan(values[row, column]) else f"{values[row, column]}"
        raise LFMError(f"{where}: {place} is {value}{more}; drop or fill such rows first")


def _file_and_key(path: str | Path) -> tuple[Path, str | None]:
    """`a.npz:key` is the array `key` of a.npz, unless a file has that very name."""
    text = str(path)
    head, found, key = text.rpartition(".npz:")
    file = Path(f"{head}.npz") if found and not Path(text).exists() else Path(text)
    if file.is_dir():
        raise LFMError(f"{file}: is a folder; give the path of one table file")
    if not file.is_file():
        raise LFMError(f"{file}: no such file; give the path of a table: {', '.join(READERS)}")
    if file.stat().st_size == 0:
        raise LFMError(f"{file}: is empty; give a table of numbers")
    return file, key if found and file.name != Path(text).name else None


def _reader(file: Path) -> Callable[[Path, str | None], Columns]:
    ending = file.name.lower().removesuffix(".gz").rpartition(".")[2]
    reader = READERS.get(f".{ending}")
    if ending in ("pickle", "pkl"):
        raise LFMError(
            f"{file}: a pickle can run any code, so none is read; write it anew where you trust it: "
            f"pandas.read_pickle({file.name!r}).to_csv('{file.name.partition('.')[0]}.csv', index=False)"
        )
    if reader is None or (file.name.lower().endswith(".gz") and reader is not _read_csv):
        raise LFMError(f"{file}: a table ends in {', '.join(READERS)} (or .csv.gz); convert or rename the file")
    return reader


def _chosen(names: list[str], columns: Sequence[str] | None, where: str) -> list[int]:
    """Positions of the chosen columns, all of them where none is chosen."""
    wanted = names if columns is None else list(columns)
    if not names:
        raise LFMError(f"{where}: has no columns; give a table of numbers")
    if not wanted:
        raise LFMError(f"{where}: `columns` is empty; name at least one of {_some(names)}")
    for name in wanted:
        if name not in names:
            raise LFMError(f"{where}: has no column {name!r}; it has {_some(names)}")
        if name == "":
            raise LFMError(f"{where}: column {names.index(name)} has no name (an index?); name it or choose `columns`")
    twice = [name for name, count in Counter(names).items() if count > 1 and name in wanted]
    twice += [name for name, count in Counter(wanted).items() if count > 1 and name not in twice]
    if twice:
        raise LFMError(f"{where}: column {twice[0]!r} is there more than once; rename or drop all but one")
    return [names.index(name) for name in wanted]


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Whatever a damaged file makes a reader raise, as one line."""
    try:
        yield
    except LFMError:
        raise
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        cause = " ".join(str(error).strip("'\"").split())[:200]
        # numpy would have to unpickle those
        remedy = "save numbers: values.astype(float)" if "bject" in cause else "write it anew"
        raise LFMError(f"{file}: cannot be read, damaged or of another format ({cause}); {remedy}") from error


# --- arrays of numpy ---


def _read_npy(file: Path, key: str | None) -> Columns:
    with readable(file):
        # mapped: a header that promises more than the file holds is refused before any memory is taken
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    return _of_array(array, str(file))


def _read_npz(file: Path, key: str | None) -> Columns:
    with readable(file), np.load(file, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile) or not arrays.files:
            raise LFMError(f"{file}: holds no array by name; write it with numpy.savez")
        if key is None and len(arrays.files) > 1:
            raise LFMError(f"{file}: holds {_some(arrays.files)}; choose one, as in {file.name}:{arrays.files[0]}")
        if key is not None and key not in arrays.files:
            raise LFMError(f"{file}: holds no array {key!r}; it holds {_some(arrays.files)}")
        return _of_array(arrays[key or arrays.files[0]], str(file))


def _of_array(array: Array, where: str) -> Columns:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise LFMError(f"{where}: holds {getattr(array, 'dtype', 'no array')}, not numbers; save an array of floats")
    if array.ndim != 2:
        advice = f"; give it as (M, 1): values.reshape({len(array)}, 1)" if array.ndim == 1 else ""
        raise LFMError(f"{where}: a table has rows and columns, (M, d), and not the shape {array.shape}{advice}")
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    return _numbered(array.shape[1]), lambda chosen: np.array(array[:, chosen], dtype=dtype, order="C")


def _numbered(width: int) -> list[str]:
    return [f"x{index}" for index in range(width)]


# --- text and Parquet ---


def _read_txt(file: Path, key: str | None) -> Columns:
    with readable(file), open(file, encoding="utf-8-sig") as lines:
        words = next(lines, "").replace(",", " ").split()
    return _of_array(load_text(file, skiprows=0 if _all_numbers(words) else 1), str(file))


def load_text(file: Path, **options: Any) -> Array:
    """numpy.loadtxt as (M, d), where a file without rows is no warning: whoever reads it says so."""
    with readable(file), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input contained no data", category=UserWarning)
        return np.loadtxt(file, ndmin=2, encoding="utf-8-sig", **options)


def _read_csv(file: Path, key: str | None) -> Columns:
    pyarrow_csv = _pyarrow(file, "csv")
    with readable(file):
        with _open_text(file) as lines:
            line = next((line for line in lines if line.strip()), "")
        delimiter = max(",;\t", key=line.count)
        header = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if not header:
            raise LFMError(f"{file}: is empty; give a table of numbers")
        bare = _all_numbers(header)
        table = pyarrow_csv.read_csv(
            file,
            read_options=pyarrow_csv.ReadOptions(autogenerate_column_names=bare),
            parse_options=pyarrow_csv.ParseOptions(delimiter=delimiter),
        )
    names = _numbered(len(header)) if bare else header
    return names, lambda chosen: _of_columns(table, names, chosen, file)


def _open_text(file: Path) -> Any:
    """The file as text, its damage shown as signs rather than raised: only the header is read this way."""
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    return opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="")


def _read_parquet(file: Path, key: str | None) -> Columns:
    parquet = _pyarrow(file, "parquet")
    with readable(file):
        table = parquet.ParquetFile(file).read()
    # a data frame's index, which pandas stores as a column: row numbers are no measurement
    table = table.drop_columns([name for name in table.schema.names if re.fullmatch(r"__index_level_\d+__", name)])
    names = list(table.schema.names)
    return names, lambda chosen: _of_columns(table, names, chosen, file)


def _pyarrow(file: Path, module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError as error:
        # too new a pyarrow is installed but does not go with numpy 1, and says so
        raise LFMError(f"{file}: needs pyarrow ({error}); pip install 'lfm_policy[tables]' brings one") from error


def _of_columns(table: Any, names: list[str], chosen: list[int], file: Path) -> Array:
    """The chosen columns of an Arrow table as (M, d) float64, what is missing as NaN."""
    types = _pyarrow(file, "types")
    numeric = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    values = np.empty((table.num_rows, len(chosen)))
    for position, index in enumerate(chosen):
        column = table.column(index)
        if not any(is_type(column.type) for is_type in numeric):
            row, text = _first_word(column.to_pylist())
            raise LFMError(
                f"{file}: column {names[index]!r} is not numeric ({column.type}), row {row} is {text!r}; "
                "leave it out with `columns`, or mend it"
            )
        # through numpy, since booleans and decimals each lack one of Arrow's own casts
        values[:, position] = [] if not len(column) else column.cast("float64", safe=False).to_numpy()
    return values


def _first_word(values: list[Any]) -> tuple[int, str]:
    """The first value that is no number and its row: where to look."""
    for row, value in enumerate(values):
        if value is not None and not _all_numbers([str(value)]):
            return row, str(value)[:40]
    return 0, str(values[0])[:40] if values else ""


def _all_numbers(words: Sequence[str]) -> bool:
    try:
        [float(word) for word in words]
    except ValueError:
        return False
    return len(words) > 0


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


READERS: dict[str, Callable[[Path, str | None], Columns]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_txt,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


def write_numbers(path: str | Path, values: Array, columns: Sequence[str]) -> None:
    """Write rows (M, d) with d column names as `.csv`, `.npy`, `.npz` (arrays `values` and `columns`) or `.parquet`.

    The file appears whole or not at all. LFMError for another ending, a full disk, or a missing pyarrow.
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise LFMError(f"{path}: must end in {', '.join(WRITERS)}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        writer(temporary, values, list(columns))
        os.replace(temporary, path)
    except OSError as error:
        raise LFMError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(path: Path, values: Array, columns: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(values.tolist())  # repr of a float: it reads back to the same number


def _write_npy(path: Path, values: Array, columns: list[str]) -> None:
    np.save(path, values)


def _write_npz(path: Path, values: Array, columns: list[str]) -> None:
    np.savez_compressed(path, values=values, columns=np.array(columns))


def _write_parquet(path: Path, values: Array, columns: list[str]) -> None:
    parquet = _pyarrow(path, "parquet")
    arrow = _pyarrow(path, "lib")
    parquet.write_table(arrow.Table.from_arrays([arrow.array(column) for column in values.T], names=columns), path)


WRITERS: dict[str, Callable[[Path, Array, list[str]], None]] = {
    ".csv": _write_csv,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
