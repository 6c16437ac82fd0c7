"""Tables for density estimation by name: any file of numbers, 2-D densities, the standard sets, bundled ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_policy.data.bsds import patches, read_photographs, split_photographs
from lfm_policy.data.maf import MAF_LOADERS
from lfm_policy.data.pictures import PixelMixture, draw_rose, draw_tree, read_grey
from lfm_policy.data.table_files import check_finite, check_table, read_numbers
from lfm_policy.data.toys import DENSITIES, Density
from lfm_policy.flow.errors import LFMError

__all__ = ["DEFAULT_BUNDLED", "LOADERS", "Request", "Table", "check_table", "load_table", "split_rows"]

Array = NDArray[Any]

# Of the bundled tables the one whose columns are all as good as continuous, and the longest
DEFAULT_BUNDLED = "breast_cancer"
# Columns with atoms, on which a likelihood is unbounded: two sexes; a ratio that is 3, 4 or 5 in two thirds of the
# rows; six measures of dents that are exactly 0 in 13 patients. `columns` brings them back.
ATOMS: dict[str, tuple[str, ...]] = {
    "diabetes": ("sex", "s4"),
    "breast_cancer": (
        "mean concavity",
        "mean concave points",
        "concavity error",
        "concave points error",
        "worst concavity",
        "worst concave points",
    ),
}


@dataclass(frozen=True, eq=False)
class Table:
    """Three disjoint parts of one table or density, and what is known of it.

    `train`, `valid` and `test` are (M, d) float64, or float32 for large sets; `columns` are d names. Where the density
    is known exactly, `entropy` is its differential entropy in nats, the least that a test NLL can be on average, and
    `log_prob` maps (B, d) to (B,) nats. `source` says in one line from which file, generator or recipe it comes.
    """

    name: str
    train: Array
    valid: Array
    test: Array
    columns: tuple[str, ...]
    entropy: float | None = None
    log_prob: Callable[[Array], Array] | None = None
    source: str = ""


@dataclass(frozen=True)
class Request:
    """What `load_table` was asked for: see there."""

    name: str
    path: str | None = None
    n_train: int | None = None
    n_valid: int | None = None
    n_test: int | None = None
    columns: tuple[str, ...] | None = None
    seed: int = 0

    def sizes(self, n_train: int, n_valid: int, n_test: int) -> tuple[int, int, int]:
        """The three sizes, those of the arguments where nothing was asked for."""
        return self.n_train or n_train, self.n_valid or n_valid, self.n_test or n_test

    def needed_path(self, what: str) -> str:
        if self.path is None:
            raise LFMError(f"table {self.name!r} needs `path`: {what}")
        return self.path

    def refuse(self, *fields: str) -> None:
        """LFMError if one of these was given: it would be ignored."""
        for field in fields:
            if getattr(self, field) is not None:
                raise LFMError(f"table {self.name!r}: takes no `{field}` ({getattr(self, field)!r}); leave it out")

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose.encode()])


def load_table(
    name: str,
    path: str | None = None,
    *,
    n_train: int | None = None,
    n_valid: int | None = None,
    n_test: int | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> Table:
    """A table by name, split, checked, and not scaled except where its standard preprocessing does so.

    | name | what | `path` |
    | --- | --- | --- |
    | file | any CSV, TSV, txt, npy, npz or Parquet file of numbers | the file, `a.npz:key` for one array of several |
    | breast_cancer, diabetes, iris, wine | scikit-learn's; breast_cancer is the most continuous of them | none |
    | checkerboard, eight_gaussians, two_moons, swiss_roll, two_spirals, pinwheel | FFJORD's 2-D densities | none |
    | picture, rose, tree | a picture as a density; rose and tree are drawn if no path is given | a picture file |
    | power, gas, hepmass, miniboone | MAF's sets, prepared as there | the file, or the folder that holds it |
    | bsds300 | image patches, 63 columns | folder or zip of BSDS500's photographs |

    Files and bundled tables are shuffled by `seed` and split 80/10/10; `n_*` fix a part's rows instead, and `columns`
    choose by name (of bundled tables, columns with atoms are otherwise left out). 2-D densities are drawn, 1,000,000,
    10,000 and 100,000 points if `n_*` say nothing else; patches likewise, 1,000,000, 50,000 and 250,000. MAF's splits
    are fixed, and `n_*` take the first rows of each.

    Raises LFMError on an unknown name, a setting that the table does not take, more rows than there are, and whatever
    `read_numbers` and `check_table` refuse.
    """
    loader = LOADERS.get(name)
    if loader is None:
        nearest = difflib.get_close_matches(name, LOADERS, n=1, cutoff=0)[0]
        raise LFMError(f"table {name!r}: unknown; did you mean {nearest!r}? Known: {', '.join(LOADERS)}")
    if seed < 0:
        raise LFMError(f"seed: {seed} must not be negative")
    for field, count in (("n_train", n_train), ("n_valid", n_valid), ("n_test", n_test)):
        if count is not None and count < 1:
            raise LFMError(f"{field}: {count} must be 1 or more")
    if isinstance(columns, str):
        columns = (columns,)
    table = loader(Request(name, path, n_train, n_valid, n_test, None if columns is None else tuple(columns), seed))
    check_table(table.train, table.columns, f"{path or name}, training part")
    for part, values in (("validation", table.valid), ("test", table.test)):
        check_finite(values, table.columns, f"{path or name}, {part} part")
    return table


def split_rows(n_rows: int, request: Request) -> tuple[Array, Array, Array]:
    """Row numbers of train, valid and test: shuffled by the seed, a tenth each for valid and test, or `n_*` rows.

    Disjoint, and complete unless `n_train` takes fewer. LFMError if there are not so many rows.
    """
    n_valid, n_test = (count or max(1, n_rows // 10) for count in (request.n_valid, request.n_test))
    n_train = request.n_train or n_rows - n_valid - n_test
    if n_train < 1 or n_train + n_valid + n_test > n_rows:
        raise LFMError(
            f"{request.path or request.name}: has {n_rows} rows, too few for {max(n_train, 1)} to train on, "
            f"{n_valid} to validate and {n_test} to test; ask for fewer"
        )
    order = request.rng("split").permutation(n_rows)
    return order[n_valid + n_test :][:n_train], order[n_test : n_test + n_valid], order[:n_test]


def _split(request: Request, values: Array, columns: tuple[str, ...], source: str) -> Table:
    check_table(values, columns, request.path or request.name)
    train, valid, test = (values[rows] for rows in split_rows(len(values), request))
    return Table(request.name, train, valid, test, columns, source=source)


def _file(request: Request) -> Table:
    path = request.needed_path("a CSV, TSV, txt, npy, npz or Parquet file of numbers")
    values, columns = read_numbers(path, request.columns)
    return _split(request, values, columns, f"{path}, shuffled by seed {request.seed}")


def _bundled(request: Request) -> Table:
    request.refuse("path")
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{request.name}")()
    names = [str(name) for name in bunch.feature_names]
    atoms = ATOMS.get(request.name, ())
    chosen = request.columns or tuple(name for name in names if name not in atoms)
    for name in chosen:
        if name not in names:
            raise LFMError(f"table {request.name!r}: has no column {name!r}; it has {', '.join(names)}")
    values = np.asarray(bunch.data, dtype=np.float64)[:, [names.index(name) for name in chosen]]
    left_out = f", without {', '.join(atoms)} (atoms)" if atoms and request.columns is None else ""
    return _split(request, values, chosen, f"scikit-learn's {request.name}{left_out}, shuffled by seed {request.seed}")


def _drawn(request: Request, density: Density) -> Table:
    request.refuse("columns")
    sizes = zip(("train", "valid", "test"), request.sizes(1_000_000, 10_000, 100_000), strict=True)
    train, valid, test = (density.sample(n, request.rng(part)) for part, n in sizes)
    source = f"{density.about}, drawn with seed {request.seed}"
    return Table(request.name, train, valid, test, ("x", "y"), density.entropy, density.log_prob, source)


def _toy(request: Request) -> Table:
    request.refuse("path")
    return _drawn(request, DENSITIES[request.name]())


def _picture(request: Request) -> Table:
    path = request.needed_path("a picture file, dark is dense")
    return _pixels(request, read_grey(path), Path(path).name)


def _drawing(request: Request) -> Table:
    if request.path is not None:
        return _picture(request)
    draw = {"rose": draw_rose, "tree": draw_tree}[request.name]
    return _pixels(request, draw(), f"our own drawing of a {request.name}")


def _pixels(request: Request, grey: Array, where: str) -> Table:
    mixture = PixelMixture.of_grey(grey, request.path or where)
    about = f"{where}, {grey.shape[1]} x {grey.shape[0]} Gaussians (FFJORD, Grathwohl et al. 2019)"
    return _drawn(request, Density(mixture.sample, mixture.log_prob, mixture.entropy(), about))


def _maf(request: Request) -> Table:
    request.refuse("columns")
    path = request.needed_path("the file as MAF distributes it (see lfm_policy.data.maf), or the folder that holds it")
    parts, columns = MAF_LOADERS[request.name](path, request.seed)
    sizes = request.sizes(*(len(part) for part in parts))
    for field, part, size in zip(("n_train", "n_valid", "n_test"), parts, sizes, strict=True):
        if size > len(part):
            raise LFMError(f"{field}: {size} is more than the {len(part)} rows of {path}; ask for fewer")
    train, valid, test = (part[:size] for part, size in zip(parts, sizes, strict=True))
    return Table(request.name, train, valid, test, columns, source=f"{path}, prepared as by Papamakarios et al. 2017")


def _bsds300(request: Request) -> Table:
    request.refuse("columns")
    path = request.needed_path("a folder or zip of BSDS500's photographs, in train and val")
    known, unknown = read_photographs(path)
    names, valid_names = split_photographs(list(known), request.seed)
    photographs = {
        "train": [known[name] for name in names],
        "valid": [known[name] for name in valid_names],
        "test": list(unknown.values()),
    }
    sizes = dict(zip(photographs, request.sizes(1_000_000, 50_000, 250_000), strict=True))
    train, valid, test = (patches(grey, sizes[part], request.rng(part)) for part, grey in photographs.items())
    counts = ", ".join(f"{len(grey)} {part}" for part, grey in photographs.items())
    source = f"8 x 8 patches of {path} ({counts} photographs, seed {request.seed}), recipe of Uria et al. 2013"
    return Table(request.name, train, valid, test, tuple(f"pixel_{index}" for index in range(63)), source=source)


LOADERS: dict[str, Callable[[Request], Table]] = {
    "file": _file,
    **dict.fromkeys((DEFAULT_BUNDLED, "diabetes", "iris", "wine"), _bundled),
    **dict.fromkeys(DENSITIES, _toy),
    "picture": _picture,
    **dict.fromkeys(("rose", "tree"), _drawing),
    **dict.fromkeys(MAF_LOADERS, _maf),
    "bsds300": _bsds300,
}
