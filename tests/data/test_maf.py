"""MAF's four tables from synthetic files of the same layout, against the preprocessing written out once more."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lfm_policy.data.maf import load_gas, load_hepmass, load_miniboone, load_power
from lfm_policy.flow.errors import LFMError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def save(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    np.save(path, values)
    return values


def sizes(n: int) -> tuple[int, int, int]:
    """MAF's: int(0.1 n) test, int(0.1 of the rest) validate."""
    test = int(0.1 * n)
    valid = int(0.1 * (n - test))
    return n - test - valid, valid, test


@pytest.mark.parametrize(
    ("n", "published"),
    [
        (2_049_280, (1_659_917, 184_435, 204_928)),
        (1_052_065, (852_174, 94_685, 105_206)),
        (36_488, (29_556, 3_284, 3_648)),
    ],
)
def test_sizes_are_the_published_ones(n: int, published: tuple[int, int, int]) -> None:
    from lfm_policy.data.maf import _last_tenths

    parts = _last_tenths(np.arange(n)[:, None])
    assert tuple(map(len, parts)) == sizes(n) == published
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], np.arange(n))


def test_power(tmp_path: Path, rng: np.random.Generator) -> None:
    raw = save(tmp_path / "power" / "data.npy", rng.normal(size=(203, 8)) * np.arange(1, 9))
    (train, valid, test), columns = load_power(tmp_path)
    assert columns[0] == "global_active_power"
    assert len(columns) == 6

    state = np.random.RandomState(42)
    expected = raw.copy()
    state.shuffle(expected)
    expected = expected[:, [0, 2, 4, 5, 6, 7]]
    voltage = 0.01 * state.rand(203, 1)
    gap = 0.001 * state.rand(203, 1)
    expected = expected + np.hstack([gap, voltage, state.rand(203, 3), np.zeros((203, 1))])
    n_train, n_valid, n_test = sizes(203)
    known = expected[: n_train + n_valid]
    expected = (expected - known.mean(0)) / known.std(0)
    np.testing.assert_allclose(np.concatenate([train, valid, test]), expected, atol=1e-6)
    assert (len(train), len(valid), len(test)) == (n_train, n_valid, n_test)
    assert train.dtype == np.float32


def test_miniboone(tmp_path: Path, rng: np.random.Generator) -> None:
    raw = save(tmp_path / "miniboone" / "data.npy", rng.normal(3, 5, size=(300, 43)))
    for path in (tmp_path, tmp_path / "miniboone", tmp_path / "miniboone" / "data.npy"):
        (train, valid, test), columns = load_miniboone(path)
        assert len(columns) == 43
        known = np.concatenate([train, valid]).astype(float)
        np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(known.std(0), 1, atol=1e-6)
        scaled = (raw - raw[:270].mean(0)) / raw[:270].std(0)
        np.testing.assert_allclose(np.concatenate([train, valid, test]), scaled, atol=1e-5)
        assert len(test) == 30


def sensors(rng: np.random.Generator, n: int) -> np.ndarray:
    """Time, two concentrations and 16 sensors, of which 3 and 5 follow 0, and 9 follows 8."""
    values = rng.normal(size=(n, 19))
    values[:, 0] = np.arange(n)
    values[:, [6, 8]] = 2 * values[:, [3]] + 0.01 * values[:, [6, 8]]
    values[:, 12] = values[:, 11] + 0.05 * values[:, 12]
    values[:, 18] = -values[:, 17]  # anticorrelated columns stay
    return values


def test_gas(tmp_path: Path, rng: np.random.Generator) -> None:
    raw = save(tmp_path / "gas" / "ethylene_CO.npy", sensors(rng, 400))
    (train, valid, test), columns = load_gas(tmp_path)
    # of columns that go together the first is dropped, until the last of them is left
    kept = [4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18]
    assert columns == tuple(f"x{index}" for index in kept)
    expected = (raw[:, kept] - raw[:, kept].mean(0)) / raw[:, kept].std(0, ddof=1)
    np.testing.assert_allclose(np.concatenate([train, valid, test]), expected, atol=1e-5)
    assert (len(train), len(valid), len(test)) == sizes(400)


def test_gas_of_uci_s_text_is_a_seeded_quarter(tmp_path: Path, rng: np.random.Generator) -> None:
    raw = sensors(rng, 400)
    path = tmp_path / "ethylene_CO.txt"
    np.savetxt(path, raw, header="Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings", comments="")
    one, again, other = (np.concatenate(load_gas(path, seed)[0]) for seed in (0, 0, 1))
    assert one.shape == (100, 13)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    rows = np.random.default_rng([0, *b"quarter"]).permutation(400)[:100]
    expected = raw[rows][:, [4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18]]
    np.testing.assert_allclose(one, (expected - expected.mean(0)) / expected.std(0, ddof=1), atol=1e-5)


def test_gas_columns_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    raw = sensors(rng, 100)
    names = ["Time", "Meth", "Eth", *(f"R{index}" for index in range(1, 17))]
    order = [*range(3, 19), 2, 0, 1]
    rows = "\n".join(",".join(map(repr, row)) for row in raw[:, order].tolist())
    (tmp_path / "ethylene_CO.csv").write_text(",".join(names[index] for index in order) + "\n" + rows + "\n")
    _, columns = load_gas(tmp_path)
    assert columns[:3] == ("R2", "R3", "R5")
    assert len(columns) == 13


def test_gas_refuses_the_pickle_and_other_tables(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "ethylene_CO.pickle").write_bytes(b"x")
    with pytest.raises(LFMError, match=r"a pickle can run any code.*to_csv\('ethylene_CO.csv', index=False\)"):
        load_gas(tmp_path)
    save(tmp_path / "ethylene_CO.npy", rng.normal(size=(100, 7)))
    with pytest.raises(LFMError, match="has 7 columns, none of them Time, Meth or Eth"):
        load_gas(tmp_path)


def particles(rng: np.random.Generator, n: int) -> np.ndarray:
    """A label, a continuous column, a discrete one, and three more."""
    values = rng.normal(2, 3, size=(n, 6))
    values[:, 0] = rng.integers(0, 2, n)
    values[:, 2] = rng.integers(0, 3, n)
    return values


def text(values: np.ndarray, header: str) -> str:
    return header + "\n" + "\n".join(",".join(map(repr, row)) for row in values.tolist()) + "\n"


HEADER = "# label,f0,f1,f2,f3,f4"
TEST_FILES: dict[str, Callable[[np.ndarray], str]] = {
    "a longer header": lambda values: text(values, HEADER + ",mass"),
    "a column more": lambda values: text(np.hstack([values, values[:, :1]]), HEADER + ",mass"),
    "a comma at each end": lambda values: text(values, HEADER).replace("\n", ",\n"),
    "none": lambda values: text(values, HEADER),
}


@pytest.mark.parametrize("case", TEST_FILES)
def test_hepmass(case: str, tmp_path: Path, rng: np.random.Generator) -> None:
    raw, raw_test = particles(rng, 400), particles(rng, 150)
    (tmp_path / "hepmass").mkdir()
    (tmp_path / "hepmass" / "1000_train.csv").write_text(text(raw, HEADER))
    packed = gzip.compress(TEST_FILES[case](raw_test).encode())
    (tmp_path / "hepmass" / "1000_test.csv.gz").write_bytes(packed)
    (train, valid, test), columns = load_hepmass(tmp_path)
    assert columns == ("f0", "f2", "f3", "f4")
    signals = raw[raw[:, 0] == 1][:, [1, 3, 4, 5]]
    mean, std = signals.mean(0), signals.std(0, ddof=1)
    np.testing.assert_allclose(np.concatenate([train, valid]), (signals - mean) / std, atol=1e-5)
    expected = (raw_test[raw_test[:, 0] == 1][:, [1, 3, 4, 5]] - mean) / std
    np.testing.assert_allclose(test, expected, atol=1e-5)
    assert len(valid) == int(0.1 * len(signals))


def test_hepmass_refuses(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(LFMError, match=r"holds neither hepmass/1000_train.csv nor 1000_train.csv nor"):
        load_hepmass(tmp_path)
    raw = particles(rng, 60)
    (tmp_path / "1000_test.csv").write_text(text(raw, HEADER))
    for faulty, message in (
        (raw * [0, 1, 1, 1, 1, 1], "has no row of label 1"),
        (np.where(raw == raw[raw[:, 0] == 1][0, 3], np.nan, raw), "column 'f2', row 0 is NaN"),
    ):
        (tmp_path / "1000_train.csv").write_text(text(faulty, HEADER))
        with pytest.raises(LFMError, match=f"1000_train.csv: {message}"):
            load_hepmass(tmp_path)
    (tmp_path / "1000_train.csv").write_text(text(raw, HEADER)[:-9] + "word\n")
    with pytest.raises(LFMError, match=r"1000_train.csv: cannot be read"):
        load_hepmass(tmp_path)


def test_other_tables_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    save(tmp_path / "data.npy", rng.normal(size=(50, 6)))
    with pytest.raises(LFMError, match=r"data.npy: has 6 columns, not 8; give the table that MAF distributes"):
        load_power(tmp_path)
    save(tmp_path / "data.npy", np.full((50, 8), np.nan))
    with pytest.raises(LFMError, match=r"data.npy: column 'x0', row 0 is NaN"):
        load_power(tmp_path)
    with pytest.raises(LFMError, match="no such file"):
        load_power(tmp_path / "nowhere")
