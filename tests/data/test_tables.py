"""`load_table`: every name, what all tables keep, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lfm_policy.data.pictures import draw_tree
from lfm_policy.data.tables import ATOMS, LOADERS, Request, Table, load_table, split_rows
from lfm_policy.data.toys import DENSITIES
from lfm_policy.flow.errors import LFMError

SMALL = {"n_train": 500, "n_valid": 60, "n_test": 70}
BUNDLED = ("breast_cancer", "diabetes", "iris", "wine")
DRAWN = (*DENSITIES, "rose", "tree")
PARTS = ("train", "valid", "test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """300 rows, each with its number in the first column."""
    values = np.random.default_rng(0).normal(size=(300, 4))
    values[:, 0] = np.arange(300)
    np.save(tmp_path / "a.npy", values)
    return tmp_path / "a.npy"


def equal(first: Table, second: Table) -> bool:
    return all(np.array_equal(getattr(first, part), getattr(second, part)) for part in PARTS)


def test_a_file_is_split_80_10_10_disjoint_and_complete(file: Path) -> None:
    table = load_table("file", str(file))
    assert [len(getattr(table, part)) for part in PARTS] == [240, 30, 30]
    rows = np.concatenate([getattr(table, part) for part in PARTS])
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], np.load(file))
    assert not np.array_equal(rows, np.load(file))
    assert str(file) in table.source


@pytest.mark.parametrize("asked", [{"n_train": 5}, {"n_valid": 7}, {"n_test": 290, "n_valid": 4}, SMALL])
def test_sizes_may_be_asked_for(file: Path, asked: dict[str, int]) -> None:
    if sum(asked.values()) > 300:
        with pytest.raises(LFMError, match="has 300 rows, too few for 500 to train on, 60 to validate and 70 to test"):
            load_table("file", str(file), **asked)
        return
    table = load_table("file", str(file), **asked)
    rows = np.concatenate([getattr(table, part)[:, 0] for part in PARTS])
    assert len(set(rows)) == len(rows)
    for field, size in asked.items():
        assert len(getattr(table, field[2:])) == size
    if "n_train" not in asked:
        assert len(rows) == 300


@pytest.mark.parametrize("n_rows", [3, 9, 10, 11, 1234])
def test_splits_of_any_length(n_rows: int) -> None:
    parts = split_rows(n_rows, Request("file"))
    assert sorted(np.concatenate(parts)) == list(range(n_rows))
    assert min(map(len, parts)) >= 1


@pytest.mark.parametrize("name", [*BUNDLED, *DRAWN])
def test_what_every_table_keeps(name: str) -> None:
    sizes = {} if name in BUNDLED else SMALL
    table = load_table(name, **sizes, seed=2)
    dims = {getattr(table, part).shape[1] for part in PARTS}
    assert dims == {len(table.columns)}
    assert table.name == name
    assert table.source
    assert all(np.isfinite(getattr(table, part)).all() for part in PARTS)
    assert equal(table, load_table(name, **sizes, seed=2))
    assert not equal(table, load_table(name, **sizes, seed=3))
    if name in DRAWN:
        assert [len(getattr(table, part)) for part in PARTS] == [500, 60, 70]
        assert table.entropy is not None
        assert table.log_prob is not None
        surprise = -table.log_prob(table.train)
        assert abs(surprise.mean() - table.entropy) < 4 * surprise.std() / np.sqrt(500) + 1e-9
    else:
        assert table.entropy is None
        assert table.log_prob is None


def test_parts_of_a_drawn_table_are_independent() -> None:
    """The length of one part changes no other, and none repeats another."""
    small, large = load_table("pinwheel", **SMALL), load_table("pinwheel", n_train=900, n_valid=60, n_test=70)
    np.testing.assert_array_equal(small.test, large.test)
    assert not set(small.train[:, 0]) & set(small.test[:, 0])
    assert not set(small.train[:, 0]) & set(small.valid[:, 0])


def test_defaults_of_drawn_tables() -> None:
    table = load_table("checkerboard")
    assert [len(getattr(table, part)) for part in PARTS] == [1_000_000, 10_000, 100_000]


def test_columns_choose(file: Path) -> None:
    table = load_table("file", str(file), columns=["x3", "x0"])
    assert table.columns == ("x3", "x0")
    np.testing.assert_array_equal(table.train, np.load(file)[table.train[:, 1].astype(int)][:, [3, 0]])
    assert load_table("file", str(file), columns="x1").train.shape == (240, 1)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_columns_with_atoms_are_left_out_unless_chosen(name: str) -> None:
    table = load_table(name)
    atoms = ATOMS.get(name, ())
    assert not set(atoms) & set(table.columns)
    assert all(atom in table.source for atom in atoms)
    if atoms:
        assert load_table(name, columns=[*atoms, table.columns[0]]).columns == (*atoms, table.columns[0])
    rows = np.concatenate([getattr(table, part) for part in PARTS])
    if name == "breast_cancer":
        most = max(np.unique(column, return_counts=True)[1].max() for column in rows.T)
        assert most <= 5


def test_a_picture_by_path(tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    Image.fromarray(draw_tree().astype(np.uint8)).save(path)
    own = load_table("tree", **SMALL)
    for name in ("tree", "picture"):
        table = load_table(name, str(path), **SMALL)
        assert equal(table, own)
        assert table.entropy == own.entropy
        assert "drawn.png" in table.source


def test_maf_s_splits_are_fixed_and_may_be_shortened(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(400, 43)))
    whole, short = load_table("miniboone", str(tmp_path)), load_table("miniboone", str(tmp_path), n_train=99, n_test=9)
    assert whole.train.dtype == np.float32
    np.testing.assert_array_equal(short.train, whole.train[:99])
    np.testing.assert_array_equal(short.valid, whole.valid)
    np.testing.assert_array_equal(short.test, whole.test[:9])
    assert "Papamakarios" in whole.source
    with pytest.raises(LFMError, match="n_test: 41 is more than the 40 rows of"):
        load_table("miniboone", str(tmp_path), n_test=41)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "two_moon"}, "table 'two_moon': unknown; did you mean 'two_moons'[?] Known: file, breast"),
        ({"name": "Rose"}, "did you mean 'rose'"),
        ({"name": "zzz"}, "unknown; did you mean"),
        ({"name": "iris", "seed": -1}, "seed: -1 must not be negative"),
        ({"name": "iris", "n_train": 0}, "n_train: 0 must be 1 or more"),
        ({"name": "iris", "columns": ["width"]}, "table 'iris': has no column 'width'; it has sepal length"),
        ({"name": "iris", "path": "a.csv"}, "table 'iris': takes no `path`"),
        ({"name": "swiss_roll", "path": "a.csv"}, "table 'swiss_roll': takes no `path`"),
        ({"name": "rose", "columns": ["x"]}, "table 'rose': takes no `columns`"),
        ({"name": "iris", "n_train": 3}, "iris, training part: 3 rows for 4 columns"),
        *(({"name": name}, f"table '{name}' needs `path`") for name in LOADERS if name not in (*BUNDLED, *DRAWN)),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LFMError, match=message) as caught:
        load_table(**settings)
    assert "\n" not in str(caught.value)


def test_faults_are_told_by_their_row_in_the_file(file: Path) -> None:
    values = np.load(file)
    values[123, 2] = np.inf
    np.save(file, values)
    with pytest.raises(LFMError, match=r"a.npy: column 'x2', row 123 is inf; drop or fill such rows first"):
        load_table("file", str(file))
    assert len(load_table("file", str(file), columns=["x0", "x1"]).train) == 240


def test_a_column_that_varies_in_the_test_rows_only(file: Path) -> None:
    values = np.load(file)
    values[:, 3] = 0
    values[split_rows(300, Request("file"))[2], 3] = 1
    np.save(file, values)
    with pytest.raises(LFMError, match=r"a.npy, training part: constant columns have no density: 'x3' is always 0"):
        load_table("file", str(file))
