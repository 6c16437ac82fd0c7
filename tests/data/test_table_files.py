"""Table files: every format reads back exactly, and each fault is told in one line that names its place."""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.data.table_files import check_table, read_numbers, write_numbers
from lfm_policy.flow.errors import LFMError

NAMES = ("a", "b", "c")


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 3))


def arrow(module: str) -> Any:
    return importlib.import_module(f"pyarrow.{module}")


def csv_text(values: np.ndarray, delimiter: str = ",", header: bool = True) -> str:
    lines = [delimiter.join(NAMES)] if header else []
    return "\n".join(lines + [delimiter.join(map(repr, row)) for row in values.tolist()]) + "\n"


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    parquet = arrow("parquet")
    import pyarrow

    parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.npy": lambda path, values: np.save(path, values),
    "a.npz": lambda path, values: np.savez(path, x=values),
    "a.txt": lambda path, values: np.savetxt(path, values, fmt="%r"),
    "b.txt": lambda path, values: path.write_text("Time (s), CO (ppm) and more\n" + csv_text(values, "   ", False)),
    "a.csv": lambda path, values: path.write_text(csv_text(values)),
    "b.csv": lambda path, values: path.write_text(csv_text(values, ";", header=False)),
    "c.csv": lambda path, values: path.write_text("\ufeff" + csv_text(values).replace("\n", "\r\n"), newline=""),
    "a.tsv": lambda path, values: path.write_text(csv_text(values, "\t")),
    "a.csv.gz": lambda path, values: path.write_bytes(gzip.compress(csv_text(values).encode())),
    "a.parquet": lambda path, values: write_parquet(path, dict(zip(NAMES, values.T, strict=True))),
}


def needs_arrow(file: str) -> None:
    if not file.endswith((".npy", ".npz", ".txt")):
        arrow("csv")


@pytest.mark.parametrize("file", WRITERS)
def test_every_format_reads_back_exactly(file: str, tmp_path: Path, values: np.ndarray) -> None:
    needs_arrow(file)
    WRITERS[file](tmp_path / file, values)
    read, names = read_numbers(tmp_path / file)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.float64
    assert names == (NAMES if file in ("a.csv", "c.csv", "a.tsv", "a.csv.gz", "a.parquet") else ("x0", "x1", "x2"))
    chosen, chosen_names = read_numbers(tmp_path / file, [names[2], names[0]])
    np.testing.assert_array_equal(chosen, values[:, [2, 0]])
    assert chosen_names == (names[2], names[0])


@pytest.mark.parametrize(("dtype", "kept"), [("f4", "f4"), ("f2", "f8"), ("i2", "f8"), ("u8", "f8"), ("?", "f8")])
def test_float32_stays_and_all_else_becomes_float64(dtype: str, kept: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3).astype(dtype))
    assert read_numbers(tmp_path / "a.npy")[0].dtype == kept


def test_one_array_of_several(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=values, y=values[:, :1])
    np.testing.assert_array_equal(read_numbers(f"{path}:y")[0], values[:, :1])
    with pytest.raises(LFMError, match=r"a.npz: holds x, y; choose one, as in a.npz:x"):
        read_numbers(path)
    with pytest.raises(LFMError, match=r"a.npz: holds no array 'z'; it holds x, y"):
        read_numbers(f"{path}:z")


def test_unchosen_columns_may_hold_anything(tmp_path: Path) -> None:
    arrow("csv")
    path = tmp_path / "a.csv"
    path.write_text(",name,when,x\n0,ann,2020-01-01,1.5\n1,bob,2020-01-02,2\n")
    np.testing.assert_array_equal(read_numbers(path, ["x"])[0], [[1.5], [2]])
    for columns, message in (
        (["x", "name"], "column 'name' is not numeric (string), row 0 is 'ann'; leave it out with `columns`"),
        (["when"], "column 'when' is not numeric (date32[day]), row 0 is '2020-01-01'"),
        (None, "column 0 has no name (an index?); name it or choose `columns`"),
        (["x", "y"], "has no column 'y'; it has , name, when, x"),
        (["x", "x"], "column 'x' is there more than once"),
        ([], "`columns` is empty"),
    ):
        with pytest.raises(LFMError) as caught:
            read_numbers(path, columns)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,?\n", "column 'b' is not numeric (string), row 1 is '?'"),
        ("a,b,a\n1,2,3\n", "column 'a' is there more than once"),
        ("a,b\n1,2\n3\n", "cannot be read, damaged or of another format"),
        ("a,b\n", "has no rows"),
        ("\n \n", "is empty"),
        ("", "is empty"),
    ],
)
def test_faults_of_csv(text: str, message: str, tmp_path: Path) -> None:
    arrow("csv")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LFMError) as caught:
        read_numbers(tmp_path / "a.csv")
    assert message in str(caught.value)
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_becomes_nan(tmp_path: Path) -> None:
    arrow("csv")
    (tmp_path / "a.csv").write_text("a,b\n1,\n,2\n3,nan\n")
    read, names = read_numbers(tmp_path / "a.csv")
    np.testing.assert_array_equal(read, [[1, np.nan], [np.nan, 2], [3, np.nan]])
    with pytest.raises(LFMError, match=r"a.csv: column 'b', row 0 is NaN, and 2 more are not finite; drop or fill"):
        check_table(read, names, "a.csv")


def test_parquet_of_every_numeric_type(tmp_path: Path) -> None:
    arrow("parquet")
    import pyarrow

    columns = {
        "int": pyarrow.array([1, None], pyarrow.int16()),
        "bool": [True, False],
        "float": pyarrow.array([0.5, 2], pyarrow.float32()),
        "decimal": pyarrow.array([1, 2], pyarrow.decimal128(5, 2)),
        "null": [None, None],
        "list": [[1], [2]],
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    read, _ = read_numbers(path, ["int", "bool", "float", "decimal", "null"])
    np.testing.assert_array_equal(read, [[1, 1, 0.5, 1, np.nan], [np.nan, 0, 2, 2, np.nan]])
    with pytest.raises(LFMError, match="column 'list' is not numeric"):
        read_numbers(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(7), r"not the shape \(7,\); give it as \(M, 1\): values.reshape\(7, 1\)"),
        (np.zeros((2, 3, 4)), r"not the shape \(2, 3, 4\)"),
        (np.zeros((0, 3)), "has no rows"),
        (np.zeros((3, 0)), "has no columns"),
        (np.array([["a", "b"]]), "holds <U1, not numbers"),
        (np.zeros((3, 2), dtype=complex), "holds complex128, not numbers"),
        (np.zeros(3, dtype=[("a", float)]), "not numbers"),
        (np.array([[1, None]]), r"cannot be read.*bject.*; save numbers: values.astype\(float\)"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_faults_of_arrays(array: np.ndarray, message: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array)
    with pytest.raises(LFMError, match=message):
        read_numbers(path)


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("keep", [0, 3, 90])
def test_cut_files_are_one_line_or_fewer_rows(file: str, keep: int, tmp_path: Path, values: np.ndarray) -> None:
    needs_arrow(file)
    path = tmp_path / file
    WRITERS[file](path, values)
    path.write_bytes(path.read_bytes()[:keep])
    n_rows, told = 0, ""
    try:
        n_rows = len(read_numbers(path)[0])
    except LFMError as error:
        told = str(error)
    if told:
        assert file in told
        assert "\n" not in told
    else:
        assert file.endswith((".txt", ".csv", ".tsv"))
        assert n_rows < len(values)


def test_a_header_that_promises_more_than_memory_holds(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    data = (tmp_path / "a.npy").read_bytes()
    huge = data.replace(b"(20, 3), }            ", b"(900000000000000, 3), }", 1)[: len(data)]
    (tmp_path / "a.npy").write_bytes(huge)
    with pytest.raises(LFMError, match=r"a.npy: cannot be read"):
        read_numbers(tmp_path / "a.npy")


def test_paths_of_other_things(tmp_path: Path) -> None:
    for name in ("a.xlsx", "a", "a.npy.gz", "ethylene.pickle"):
        (tmp_path / name).write_text("1")
    for path, message in (
        ("a.xlsx", "ends in .csv, .tsv, .txt, .npy, .npz, .parquet"),
        ("a", "ends in .csv"),
        ("a.npy.gz", "ends in .csv"),
        ("missing.csv", "no such file"),
        (".", "is a folder"),
        ("ethylene.pickle", r"a pickle can run any code, so none is read; .*to_csv\('ethylene.csv', index=False\)"),
    ):
        with pytest.raises(LFMError, match=message):
            read_numbers(tmp_path / path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.parquet").write_text("x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for module in ("csv", "parquet"):
        monkeypatch.delitem(sys.modules, f"pyarrow.{module}", raising=False)
        with pytest.raises(LFMError, match=r"needs pyarrow .*pip install 'lfm_policy\[tables\]'"):
            read_numbers(tmp_path / f"a.{module}")


class TestCheck:
    def test_clean(self, values: np.ndarray) -> None:
        check_table(values, NAMES, "here")
        check_table(values.astype(np.float32), NAMES, "here")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, values: np.ndarray, bad: float) -> None:
        values[13, 1] = bad
        with pytest.raises(
            LFMError,
            match=f"^here: column 'b', row 13 is {'NaN' if np.isnan(bad) else bad}; drop or fill such rows first$",
        ):
            check_table(values, NAMES, "here")

    def test_constant(self, values: np.ndarray) -> None:
        values[:, [0, 2]] = [0.5, -1]
        with pytest.raises(LFMError, match=r"^here: constant columns .*: 'a' is always 0.5, 'c' is always -1; leave"):
            check_table(values, NAMES, "here")

    def test_few_rows(self, values: np.ndarray) -> None:
        check_table(values[:3], NAMES, "here")
        with pytest.raises(LFMError, match=r"^here: 2 rows for 3 columns; give more rows, or choose fewer columns$"):
            check_table(values[:2], NAMES, "here")
        with pytest.raises(LFMError, match="1 rows for 1 columns"):
            check_table(values[:1, :1], NAMES, "here")


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_written_rows_read_back_to_the_same_numbers(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, 2)) * [1e-9, 1e9]
    file = tmp_path / f"rows{suffix}"
    write_numbers(file, values, ["size", "mass, total"])
    got, names = read_numbers(f"{file}:values" if suffix == ".npz" else file)
    np.testing.assert_array_equal(got, values)
    assert names == (("x0", "x1") if suffix in (".npy", ".npz") else ("size", "mass, total"))
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"rows\.xls: must end in \.csv"):
        write_numbers(tmp_path / "rows.xls", np.zeros((1, 1)), ["x"])
    with pytest.raises(LFMError, match=r"missing/rows\.csv: cannot be written"):
        write_numbers(tmp_path / "missing" / "rows.csv", np.zeros((1, 1)), ["x"])
