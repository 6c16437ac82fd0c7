"""Pictures are written whole or not at all, the same for the same seed, and show the density to scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from lfm_policy.data.tables import Table
from lfm_policy.density import LocalFlowDensity, plot_parts, plots
from lfm_policy.density.plot_parts import boundaries, density_grid, final_nlls, grid_size, mass_levels, robust_limits
from lfm_policy.density.plots import draw_all, draw_density, draw_samples
from lfm_policy.flow import LFMError, LocalFlow, Schedule
from tests.flow.analytic import LinearField

NEAR = {"samples.png", "trajectory.png", "training.png"}
PLANE = NEAR | {"density.png"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer points and pixels: what is tested here does not ask for many."""
    for name, value in {"PLANE_POINTS": 2000, "CORNER_POINTS": 3000, "PANEL_POINTS": 200, "CORNER_COLUMNS": 4}.items():
        monkeypatch.setattr(plots, name, value)
    for name, value in {"GRID": 48, "COARSE_GRID": 48, "DPI": 50}.items():
        monkeypatch.setattr(plot_parts, name, value)


def make_table(columns: int, rows: int = 300, seed: int = 0) -> Table:
    """Correlated columns of very different units, with an outlier, and names that look like formulas."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(3 * rows, columns)) @ rng.normal(size=(columns, columns)) * 10.0 ** rng.integers(-3, 4)
    mixed[-1] *= 1000
    names = tuple(f"column ${index}$ of a table with rather long names" for index in range(columns))
    train, valid, test = np.split(mixed, 3)
    return Table("made", train, valid, test, names)


def fitted(table: Table, watched: bool = True, **settings: Any) -> LocalFlowDensity:
    settings = {"n_subflows": 2, "width": 8, "depth": 1, "steps": 4, "batch_size": 32, "evaluations": 2, **settings}
    density = LocalFlowDensity(**settings, random_state=0)
    train, valid = torch.from_numpy(table.train), torch.from_numpy(table.valid)
    density.begin(train, valid if watched else None, 0, table.columns).run(density.record)
    return density


def untrained(table: Table) -> LocalFlowDensity:
    density = LocalFlowDensity(n_subflows=2, width=8, random_state=0)
    density.begin(torch.from_numpy(table.train), None, 0, table.columns)
    return density


def plane(rows: int = 300) -> Table:
    """A Gaussian in units of 2 and 0.5 whose density is known."""
    rng = np.random.default_rng(1)
    scale = np.array([2.0, 0.5])
    train, valid, test = (scale * rng.normal(size=(rows, 2)) for _ in range(3))

    def log_prob(x: np.ndarray) -> np.ndarray:
        return -0.5 * ((x / scale) ** 2).sum(1) - np.log(2 * np.pi * scale.prod())

    return Table("plane", train, valid, test, ("x", "y"), log_prob=log_prob)


CASES: dict[str, tuple[Table, dict[str, Any], set[str]]] = {
    "two columns": (plane(), {}, PLANE),
    "one sub-flow": (plane(), {"n_subflows": 1}, PLANE),
    "truth unknown": (replace(plane(), log_prob=None), {"initial_diffusion": 0.01, "share_weights": True}, PLANE),
    "one column": (make_table(1), {}, NEAR),
    "many columns": (make_table(6), {"n_subflows": 9, "shared_start": 3}, NEAR),
    "many rows": (make_table(3, 2500), {"n_subflows": 1}, NEAR),
    "one test row": (replace(make_table(3), test=make_table(3).test[:1]), {"watched": False}, NEAR),
}


@pytest.mark.parametrize("case", CASES)
def test_every_picture_is_written_whole(case: str, tmp_path: Path) -> None:
    table, settings, names = CASES[case]
    drawn = draw_all(fitted(table, **settings), table, tmp_path / "new" / "plots", 0)
    assert {path.name for path in drawn} == names
    assert set(drawn) == set((tmp_path / "new" / "plots").iterdir())
    for path in drawn:
        assert 2_500 < path.stat().st_size < 500_000
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 250 < image.width < 800
            assert 150 < image.height < 800
            image.load()
            assert np.asarray(image.convert("L")).std() > 5, "something is on it"


def test_without_history_nothing_is_said_of_training(tmp_path: Path) -> None:
    table = plane()
    drawn = draw_all(untrained(table), table, tmp_path, 0)
    assert {path.name for path in drawn} == PLANE - {"training.png"}


@pytest.mark.parametrize("where", ["drawing", "writing"])
def test_a_failure_leaves_the_old_picture_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def write_half(figure: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"\x89PNG half")
        raise OSError(28, "No space left on device")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    table = plane()
    density = untrained(table)
    (tmp_path / "samples.png").write_bytes(b"old")
    monkeypatch.setattr(*((plots, "draw_dots", fail) if where == "drawing" else (Figure, "savefig", write_half)))
    with pytest.raises(RuntimeError if where == "drawing" else LFMError):
        draw_all(density, table, tmp_path, 0)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("samples.png", b"old")]


def test_a_seed_draws_the_same_picture_and_no_global_state_is_used_or_changed(tmp_path: Path) -> None:
    table = plane()
    density = fitted(table)
    first = {path.name: path.read_bytes() for path in draw_all(density, table, tmp_path / "a", 3)}
    torch.rand(1)
    with matplotlib.rc_context({"lines.linewidth": 7.0, "savefig.facecolor": "red", "figure.dpi": 33}):
        before = global_state()
        again = {path.name: path.read_bytes() for path in draw_all(density, table, tmp_path / "b", 3)}
        assert global_state() == before
    assert first == again
    assert draw_samples(density, table, tmp_path / "other.png", 4).read_bytes() != first["samples.png"]


def global_state() -> list[Any]:
    """Settings and figures of matplotlib, and the global generators of torch and numpy."""
    generators = [torch.get_rng_state().tolist(), str(np.random.get_state())]  # noqa: NPY002
    return [dict(matplotlib.rcParams.copy()), pyplot.get_fignums(), *generators]


@pytest.mark.parametrize(("table", "value"), [(plane(), float("nan")), (make_table(2), 1e9), (make_table(3), 1e9)])
def test_a_model_that_is_broken_is_drawn_too(tmp_path: Path, table: Table, value: float) -> None:
    """Samples far off or not finite leave empty panels beside the data."""
    density = untrained(table)
    list(density.flow_.parameters())[-1].data[0] = value
    assert draw_samples(density, table, tmp_path / "samples.png", 0).exists()
    if len(table.columns) == 2:
        assert draw_density(density, table, tmp_path / "density.png").exists()


def test_another_tables_columns_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"made has 3 columns and the density 2"):
        draw_all(untrained(plane()), make_table(3), tmp_path / "plots", 0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file")
    with pytest.raises(LFMError, match="plots: cannot be made"):
        draw_all(untrained(plane()), plane(), tmp_path / "plots", 0)


def test_the_grid_holds_the_density_in_the_tables_units() -> None:
    """A linear flow behind a whitener is a Gaussian: x = y M + m, with y from N(0, I)."""
    table = plane()
    density = untrained(table)
    matrix = torch.tensor([[0.2, 0.3], [-0.1, -0.4]])
    field = LinearField(matrix, torch.zeros(2), torch.zeros(2))
    density.flow_ = LocalFlow([field, field], Schedule.geometric(2, 0.15, 1.0))
    root = torch.linalg.inv(torch.matrix_exp(matrix.double())).T @ density.whitener_.inverse
    gaussian = torch.distributions.MultivariateNormal(density.whitener_.mean, root.T @ root)
    reach = 6 * gaussian.covariance_matrix.diagonal().sqrt()
    horizontal, vertical = zip((gaussian.mean - reach).tolist(), (gaussian.mean + reach).tolist(), strict=True)
    x, y, values = density_grid(density, horizontal, vertical, 60)
    points = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))
    np.testing.assert_allclose(values, gaussian.log_prob(points).exp(), rtol=1e-3, atol=1e-6)
    assert values.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=1e-4)


def test_a_trained_density_integrates_to_one_and_agrees_with_its_likelihood() -> None:
    table = plane()
    density = fitted(table, steps=50)
    x, y, values = density_grid(density, (-20, 20), (-5, 5), 80)
    assert values.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=0.01)
    rows = np.array([[x[40], y[40]], [x[43], y[30]]])
    np.testing.assert_allclose(values[[40, 30], [40, 43]], np.exp(density.score_samples(rows)), rtol=0.01)


def test_a_large_network_gets_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_parts, "GRID", 256)
    monkeypatch.setattr(plot_parts, "COARSE_GRID", 128)
    table = plane()
    large = LocalFlowDensity.preset("paper", width=400)
    large.begin(torch.from_numpy(table.train), None, 0)
    assert (grid_size(untrained(table).flow_), grid_size(large.flow_)) == (256, 128)


@pytest.mark.parametrize("rows", [1, 40, 5000])
def test_an_outlier_does_not_squash_an_axis(rows: int) -> None:
    values = np.random.default_rng(0).normal(size=rows)
    low, high = robust_limits(values)
    assert low < values.min() or rows == 5000
    assert robust_limits(np.append(values, 1e6))[1] < (20 if rows > 1 else np.inf)
    assert high > low
    flat = robust_limits(np.full(rows, 3.0))
    assert flat[0] < 3.0 < flat[1]


def test_half_of_a_sum_lies_above_its_level() -> None:
    values = np.array([[5.0, 1.0], [3.0, 1.0]])
    np.testing.assert_array_equal(mass_levels(values, (0.4, 0.75, 0.9, 1.0)), [5.0, 3.0, 1.0, 1.0])


def test_boundaries_begin_at_the_data_and_end_at_the_noise() -> None:
    assert boundaries(9, 12) == list(range(10))
    many = boundaries(40, 12)
    assert (many[0], many[-1], len(many)) == (0, 40, 12)


def test_the_final_nll_is_the_best_where_early_stopping_brings_it_back() -> None:
    """By the held-out loss before the last sub-flow, by the NLL itself for the last."""
    density = LocalFlowDensity(n_subflows=2, patience=None)
    density.history_ = [
        {"n": n, "step": step, "loss": 1.0, "valid_loss": loss, "valid_nll": nll}
        for n, step, loss, nll in (
            (1, 1, 0.1, 5.0),
            (1, 2, 0.3, 3.0),
            (1, 3, 0.2, 4.0),
            (2, 1, 0.2, 2.0),
            (2, 2, 0.1, 2.5),
            (3, 1, None, None),
        )
    ]
    assert final_nlls(density) == {1: 4.0, 2: 2.5}
    density.patience = 2
    assert final_nlls(density) == {1: 5.0, 2: 2.0}
