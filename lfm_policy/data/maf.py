"""POWER, GAS, HEPMASS and MINIBOONE, prepared as for Masked Autoregressive Flow (Papamakarios et al. 2017).

From the files that come with that paper, or from tables of the same numbers, each in one folder or by its own path.
Every loader gives (train, valid, test), float32, and the columns' names. HEPMASS and GAS are standardised by moments
that partly come from the rows they are tested on: the published figures are for that, so it stays.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.table_files import check_table, load_text, read_numbers, readable
from lfm_policy.flow.errors import LFMError

Array = NDArray[Any]
Splits = tuple[Array, Array, Array]
Prepared = tuple[Splits, tuple[str, ...]]

POWER_COLUMNS = ("global_active_power", "voltage", "sub_metering_1", "sub_metering_2", "sub_metering_3", "time")


def load_power(path: str | Path, seed: int = 0) -> Prepared:
    """Household electricity, 6 columns: MAF's `power/data.npy`, or its 8 columns in another table file.

    Rows shuffled, reactive power and intensity dropped, uniform noise of 0.01 V, 0.001 kW and 1 Wh added against
    ties, all drawn from RandomState(42) in MAF's order; standardised by train and validation. `seed` changes nothing.
    """
    file = _find(path, "power", "data")
    values, _ = _read(file, 8)
    rng = np.random.RandomState(42)
    rng.shuffle(values)
    values = np.delete(values, [1, 3], axis=1)
    voltage, gap, meters = 0.01 * rng.rand(len(values)), 0.001 * rng.rand(len(values)), rng.rand(len(values), 3)
    values[:, :5] += np.column_stack([gap, voltage, meters])
    return _standardised(_last_tenths(values)), POWER_COLUMNS


def load_miniboone(path: str | Path, seed: int = 0) -> Prepared:
    """Particle identification, 43 columns: MAF's `miniboone/data.npy`, already rid of outliers and atoms.

    The last tenth is the test, the last tenth of the rest validates; standardised by both the others.
    """
    values, names = _read(_find(path, "miniboone", "data"))
    return _standardised(_last_tenths(values)), names


def load_gas(path: str | Path, seed: int = 0) -> Prepared:
    """Gas sensors under ethylene and CO, 8 columns: `ethylene_CO` as UCI's .txt or as MAF's table in another form.

    Time and the two concentrations dropped, then the first column that another exceeds 0.98 in correlation with,
    until none does; standardised by all rows; the last tenths test and validate. MAF's pickle is a random quarter of
    UCI's rows, unseeded: from the .txt a quarter is drawn with `seed`, hence the same kind of split, not the same rows.
    """
    file = _find(path, "gas", "ethylene_CO", (".csv", ".parquet", ".npy", ".txt", ".pickle"))  # the last is refused
    values, names = _read(file)
    if file.suffix.lower() == ".txt":
        rng = np.random.default_rng([seed, *b"quarter"])
        values = values[rng.permutation(len(values))[: round(len(values) / 4)]]
    keep = _sensors(names, file)
    keep = _uncorrelated(values, keep)
    values = values[:, keep]
    values = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    return _float32(_last_tenths(values)), tuple(names[index] for index in keep)


def load_hepmass(path: str | Path, seed: int = 0) -> Prepared:
    """Signals of particle collisions, 21 columns: `1000_train.csv` and `1000_test.csv` of one folder, or .csv.gz.

    Rows of label 1; standardised by the training file; columns out whose smallest value comes more than 5 times; the
    last tenth of the training file validates. The test file's header, or the file, has one column more: left out.
    """
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    endings = (".csv", ".csv.gz")
    train_file, test_file = (_find(folder, "hepmass", stem, endings) for stem in ("1000_train", "1000_test"))
    train, columns = _signals(train_file)
    test, _ = _signals(test_file, len(columns))
    mean, std = train.mean(axis=0), train.std(axis=0, ddof=1)
    keep = np.flatnonzero((train == train.min(axis=0)).sum(axis=0) <= 5)
    train, test = ((part[:, keep] - mean[keep]) / std[keep] for part in (train, test))
    n_valid = _tenth(len(train))
    return _float32((train[:-n_valid], train[-n_valid:], test)), tuple(columns[index] for index in keep)


def _signals(file: Path, n_columns: int | None = None) -> tuple[Array, tuple[str, ...]]:
    """Rows of label 1 without the label, the first `n_columns` of them, and names; the header may be too long."""
    with readable(file), gzip.open(file, "rt") if file.suffix == ".gz" else open(file, encoding="utf-8") as lines:
        header, first = next(lines, "").strip("# \n").split(","), next(lines, "").strip().split(",")
        width = min(len(header), len(first)) if n_columns is None else n_columns + 1
    values = load_text(file, delimiter=",", skiprows=1, usecols=range(width))
    signals, names = values[values[:, 0] == 1, 1:], tuple(name.strip() for name in header[1:width])
    if len(signals) == 0:
        raise LFMError(f"{file}: has no row of label 1 in its first column; give HEPMASS as UCI distributes it")
    check_table(signals, names, str(file))
    return signals, names


def _find(path: str | Path, name: str, stem: str, endings: Sequence[str] = (".npy", ".csv", ".parquet")) -> Path:
    """The file itself, or the first of its usual names in the folder or in the folder's own folder `name`."""
    given = Path(path)
    if not given.is_dir():
        return given
    wanted = [f"{stem}{ending}" for ending in endings]
    for file in (folder / file for folder in (given / name, given) for file in wanted):
        if file.is_file():
            return file
    raise LFMError(f"{given}: holds neither {name}/{wanted[0]} nor {' nor '.join(wanted)}; give the folder of {name}")


def _read(file: Path, width: int | None = None) -> tuple[Array, tuple[str, ...]]:
    values, names = read_numbers(file)
    if width is not None and values.shape[1] != width:
        raise LFMError(f"{file}: has {values.shape[1]} columns, not {width}; give the table that MAF distributes")
    check_table(values, names, str(file))
    return values.astype(np.float64, copy=False), names


def _sensors(names: Sequence[str], file: Path) -> list[int]:
    """Positions of the sensors: neither time nor concentrations, which come first in UCI's own file."""
    known = [index for index, name in enumerate(names) if name.split()[0].lower() in ("time", "meth", "co", "eth")]
    if not known and len(names) not in (16, 19):
        raise LFMError(
            f"{file}: has {len(names)} columns, none of them Time, Meth or Eth; give all 19 or the 16 sensors"
        )
    if not known and len(names) == 19:
        known = [0, 1, 2]
    return [index for index in range(len(names)) if index not in known]


def _uncorrelated(values: Array, keep: list[int]) -> list[int]:
    correlated = np.corrcoef(values[:, keep], rowvar=False) > 0.98
    left = list(range(len(keep)))
    while (many := correlated[np.ix_(left, left)].sum(axis=1) > 1).any():
        left.pop(int(np.argmax(many)))
    return [keep[index] for index in left]


def _tenth(count: int) -> int:
    return max(1, int(0.1 * count))


def _last_tenths(values: Array) -> Splits:
    """The last tenth tests, the last tenth of the rest validates."""
    rest, test = values[: -_tenth(len(values))], values[-_tenth(len(values)) :]
    return rest[: -_tenth(len(rest))], rest[-_tenth(len(rest)) :], test


def _standardised(splits: Splits) -> Splits:
    """By the mean and standard deviation of train and validation together."""
    known = np.concatenate(splits[:2])
    mean, std = known.mean(axis=0), known.std(axis=0)
    train, valid, test = ((part - mean) / std for part in splits)
    return _float32((train, valid, test))


def _float32(splits: Splits) -> Splits:
    train, valid, test = (np.ascontiguousarray(part, dtype=np.float32) for part in splits)
    return train, valid, test


MAF_LOADERS: dict[str, Callable[[str | Path, int], Prepared]] = {
    "power": load_power,
    "gas": load_gas,
    "hepmass": load_hepmass,
    "miniboone": load_miniboone,
}
