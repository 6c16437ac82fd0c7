"""`LocalFlowDensity`: scikit-learn's contract, closed forms, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from lfm_policy.density import LocalFlowDensity
from lfm_policy.density.settings import PRESETS, schedule_of
from lfm_policy.flow import LFMError

TINY: dict[str, Any] = {
    "n_subflows": 2,
    "width": 8,
    "depth": 1,
    "steps": 4,
    "evaluations": 2,
    "batch_size": 32,
    "random_state": 0,
}
PUSHED = {"coupling": "fresh", "marginals": "pushed", "interpolant": "ot"}
# units from a millionth to a million, correlated, far from the origin
SCALES = np.array([[1e6, 0.0, 0.0], [3e-4, 1e-3, 0.0], [0.0, 2e-6, 1e-6]]).T
OFFSET = np.array([5e6, -1.0, 3e-5])


def tiny(**settings: Any) -> LocalFlowDensity:
    return LocalFlowDensity(**{**TINY, **settings})


def gaussian(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)) @ SCALES.T + OFFSET


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen rows would be drawn hundreds of times for each held-out loss, which checks of an interface never read."""
    monkeypatch.setattr("lfm_policy.density.fitting.DRAWS", 20)


@pytest.mark.usefixtures("few_draws")
@parametrize_with_checks([tiny(), tiny(patience=1, **PUSHED), tiny(share_weights=True, normalizer="standard")])
def test_scikit_learns_own_checks(estimator: LocalFlowDensity, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("settings", [{}, {"patience": 3}, PUSHED, {"share_weights": True, "normalizer": "standard"}])
def test_gaussian_data_reach_their_entropy_in_their_own_units(settings: dict[str, Any]) -> None:
    """NLL = H + KL with H = ½ log det(2πe S); KL is paired, so that its error is small: at most 0.05 nats stated."""
    density = tiny(width=64, depth=2, steps=400, batch_size=256, learning_rate=4e-3, **settings).fit(gaussian(4000))
    test = gaussian(2000, seed=1)
    law = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    white = np.linalg.solve(SCALES, (test - OFFSET).T).T
    truth = law.log_prob(torch.from_numpy(white)).numpy() - np.linalg.slogdet(SCALES)[1]
    excess = truth - density.score_samples(test)
    error = excess.std() / np.sqrt(len(excess))
    assert error < 0.01
    assert -4 * error < excess.mean() < 0.05
    entropy = 1.5 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(SCALES)[1]
    assert -density.score(test) == pytest.approx(entropy, abs=0.05 + 4 * np.sqrt(1.5 / len(test)))


@pytest.mark.parametrize("settings", [{}, {"normalizer": "standard"}])
def test_units_change_the_log_density_by_their_jacobian_alone(settings: dict[str, Any]) -> None:
    """Fitted to a x + b instead of x, log p falls by log |a| summed over the columns: the flow itself is the same."""
    rng = np.random.default_rng(3)
    rows, scale = rng.gamma(2.0, size=(300, 2)) @ np.array([[1.0, 0.4], [0.0, 1.0]]), np.array([1e3, 1e-3])
    plain, scaled = tiny(**settings).fit(rows), tiny(**settings).fit(rows * scale + 7.0)
    got = scaled.score_samples(rows * scale + 7.0)
    assert got.std() > 0.1
    np.testing.assert_allclose(got, plain.score_samples(rows) - np.log(np.abs(scale)).sum(), atol=2e-3)


@pytest.mark.parametrize("settings", [{}, PUSHED, {"share_weights": True, "normalizer": "standard"}])
def test_density_integrates_to_one(settings: dict[str, Any]) -> None:
    """Midpoint sum over a grid of twelve standard deviations, within 1 %."""
    rng = np.random.default_rng(4)
    rows = np.where(rng.random((2000, 1)) < 0.5, -2.0, 1.5) + rng.normal(size=(2000, 2)) * [0.5, 30.0]
    density = tiny(width=32, depth=2, steps=200, learning_rate=5e-3, tolerance=1e-2, **settings).fit(rows)
    axes = [np.linspace(m - 6 * s, m + 6 * s, 121) for m, s in zip(rows.mean(0), rows.std(0), strict=True)]
    middles = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
    grid = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(density.score_samples(grid)).sum() * cell == pytest.approx(1, abs=0.01)


def test_samples_have_the_density_that_is_reported() -> None:
    """-E log q over the model's own samples is the entropy of q by quadrature, within four standard errors."""
    rng = np.random.default_rng(4)
    rows = np.where(rng.random((2000, 1)) < 0.5, -2.0, 1.5) + rng.normal(size=(2000, 2)) * [0.5, 3.0]
    density = tiny(width=32, depth=2, steps=200, learning_rate=5e-3, tolerance=1e-2).fit(rows)
    drawn = density.sample(3000, random_state=5)
    np.testing.assert_array_equal(drawn, density.sample(3000, random_state=5))
    surprise = -density.score_samples(drawn)
    axes = [np.linspace(m - 7 * s, m + 7 * s, 120) for m, s in zip(rows.mean(0), rows.std(0), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_q, cell = density.score_samples(grid), np.prod([axis[1] - axis[0] for axis in axes])
    entropy = -(np.exp(log_q) * log_q).sum() * cell
    assert abs(surprise.mean() - entropy) < 4 * surprise.std() / np.sqrt(3000) + 0.01
    assert density.sample(0).shape == (0, 2)
    with pytest.raises(LFMError, match="n_samples: -1 must not be negative"):
        density.sample(-1)


def test_scores_do_not_depend_on_the_other_rows() -> None:
    rows = gaussian(200)
    density = tiny(width=32, depth=2, steps=50, learning_rate=1e-2).fit(rows)
    whole = density.score_samples(rows)
    far = rows.copy()
    far[1:] += 30 * rows.std(0)
    for other in (rows[:1], rows[[0, 0, 7]], far):
        assert density.score_samples(other)[0] == pytest.approx(whole[0], abs=1e-9)


def test_rows_may_come_as_any_array_or_list() -> None:
    rows = gaussian(80)
    want = tiny().fit(rows).score_samples(rows)
    for other in (rows.tolist(), np.asfortranarray(rows), rows[::-1][::-1]):
        np.testing.assert_allclose(tiny().fit(other).score_samples(other), want, atol=1e-9)
    assert tiny().fit(rows[:, :1]).score_samples(rows[:, :1]).shape == (80,)
    assert np.isfinite(tiny(random_state=np.random.RandomState(0)).fit(rows).score(rows))
    assert np.isfinite(tiny(width=np.int64(8), learning_rate=np.float32(1e-3)).fit(rows).score(rows))


def test_a_fit_that_fails_leaves_nothing_fitted() -> None:
    """Neither half of a new model nor the old one, which could be taken for the new."""
    rows = gaussian(80)
    density = tiny().fit(rows)
    with pytest.raises(LFMError, match="loss of sub-flow"):
        density.set_params(learning_rate=1e30).fit(rows)
    with pytest.raises(NotFittedError):
        density.score_samples(rows)
    with pytest.raises(NotFittedError):
        density.sample()


def test_settings_changed_after_fitting_do_not_change_what_is_saved(tmp_path: Path) -> None:
    rows = gaussian(80)
    density = tiny(random_state=np.random.RandomState(0)).fit(rows)
    want = density.score_samples(rows)
    density.set_params(c=0.3, width=64, tolerance=1e-5).save(tmp_path / "density")
    loaded = LocalFlowDensity.load(tmp_path / "density")
    assert (loaded.c, loaded.width, loaded.tolerance) == (density.settings_["c"], 8, 1e-5)
    np.testing.assert_allclose(loaded.score_samples(rows), want, atol=1e-3)


def test_an_outlier_is_named_by_its_row() -> None:
    rows = np.repeat(gaussian(50), 100, axis=0)
    density = tiny().fit(gaussian(80))
    rows[4500] = 1e300
    with pytest.raises(LFMError, match="log-likelihood of row 4500 is"):
        density.set_params(tolerance=10.0).score_samples(rows[: 4096 + 500])


def test_grid_search_save_and_clone(tmp_path: Path) -> None:
    """numpy's own numbers too."""
    rows = gaussian(120)
    grid = {"n_subflows": [1, 2], "width": np.array([4, 8]), "rho": np.array([2.0], dtype=np.float32)}
    search = GridSearchCV(tiny(), grid, cv=2).fit(rows)
    best = search.best_estimator_
    loaded = LocalFlowDensity.load(best.save(tmp_path / "density"))
    np.testing.assert_array_equal(loaded.score_samples(rows), best.score_samples(rows))
    assert search.best_params_.keys() == set(grid)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    copy = clone(search.best_estimator_)
    assert copy.get_params() == search.best_estimator_.get_params()
    assert not hasattr(copy, "flow_")


def test_the_same_seed_fits_the_same_density_and_another_does_not() -> None:
    rows = gaussian(120)
    a, b, c = (tiny(random_state=seed).fit(rows).score_samples(rows) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_a_saved_density_scores_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    rows = gaussian(120)
    density = tiny().fit(rows)
    folder = density.save(tmp_path / "density")
    assert {file.name for file in folder.iterdir()} == {"density.json", "model.safetensors"}
    np.save(tmp_path / "rows.npy", rows)
    code = """
import sys, json, numpy as np
from lfm_policy.density import LocalFlowDensity
density = LocalFlowDensity.load(sys.argv[1])
rows = np.load(sys.argv[2])
print(json.dumps([density.score_samples(rows).tolist(), density.sample(3, random_state=1).tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "rows.npy"], capture_output=True, text=True, check=True
    )
    scores, samples = json.loads(done.stdout)
    assert scores == density.score_samples(rows).tolist()
    assert samples == density.sample(3, random_state=1).tolist()
    with pytest.raises(LFMError, match=r"density: exists; set overwrite=True"):
        density.save(folder)
    density.save(folder, overwrite=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(LFMError, match="is no saved density"):
        density.save(tmp_path / "other", overwrite=True)


@pytest.mark.parametrize("damage", ["truncated weights", "truncated text", "no weights", "another format", "nothing"])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = tiny().fit(gaussian(50)).save(tmp_path / "density")
    weights, text = folder / "model.safetensors", folder / "density.json"
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "truncated text":
        text.write_text(text.read_text()[:200])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "another format":
        text.write_text(text.read_text().replace('"format": 1', '"format": 99'))
    else:
        folder = tmp_path / "missing"
    with pytest.raises(LFMError, match=str(folder)) as caught:
        LocalFlowDensity.load(folder)
    assert "\n" not in str(caught.value)


def bad(column: int | None = None, value: float | None = None, rows: int = 50) -> np.ndarray:
    table = np.random.default_rng(0).normal(size=(rows, 3))
    if column is not None:
        table[:, column] = value if value is not None else table[:, 0] * 2 - 1
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (bad(1, 4.0), r"constant columns.*'1' is always 4"),
        (bad(2), r"column \d: is a linear combination of others"),
        (bad(rows=2), r"2 rows for 3 columns"),
        (bad(rows=3), r"3 rows to learn from for 3 columns are too few to whiten"),
        (bad(1, 0.0) + np.arange(50)[:, None] * [0, 1e200, 0], r"column 1: deviation \S+ is out of range"),
        (np.where(np.arange(150).reshape(50, 3) == 40, np.nan, bad()), "X: column '1', row \\d+ is NaN"),
        (np.where(np.arange(150).reshape(50, 3) == 40, np.inf, bad()), "X: column '1', row \\d+ is inf"),
        (np.array([["a", "b"]] * 9), "could not convert"),
    ],
)
def test_tables_without_a_density_are_refused(table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(valid_fraction=0.0).fit(table)


def test_another_dimension_is_refused() -> None:
    density = tiny().fit(gaussian(50))
    with pytest.raises(ValueError, match="X has 2 features, but LocalFlowDensity is expecting 3 features"):
        density.score_samples(gaussian(5)[:, :2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width: 0 must be a whole number, 1 or more"),
        ({"width": 16.5}, "width: 16.5 must be a whole number"),
        ({"valid_fraction": None}, "valid_fraction: None must be a number, 0 or more and below 1"),
        ({"steps": "many"}, "steps: 'many' must be a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan must be"),
        ({"ema_maximum": 1.0}, "ema_maximum: 1.0 must be a number, 0 or more and below 1"),
        ({"activation": "tanh"}, "activation: 'tanh' is not one of"),
        ({"coupling": "common", "marginals": "pushed"}, "common noise needs exact marginals"),
        ({"normalizer": "minmax"}, "normalizer: 'minmax' is not one of whiten"),
        ({"learning_rate": 1e30}, r"loss of sub-flow 1 is .* at step \d; lower learning_rate"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LFMError, match=message) as caught:
        tiny(**settings).fit(gaussian(50))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_subflows", [2, 4, 9])
@pytest.mark.parametrize("rho", [1.0, 3.5])
def test_without_a_first_step_the_last_subflow_begins_where_it_does_for_any_number(n_subflows: int, rho: float) -> None:
    schedule = schedule_of(n_subflows, None, rho)
    assert schedule.times[-2] == pytest.approx(0.17)
    assert schedule.gammas[-1] / schedule.gammas[0] == pytest.approx(rho ** (n_subflows - 2))


def test_presets_are_settings_of_the_estimator() -> None:
    for name, settings in PRESETS.items():
        density = LocalFlowDensity.preset(name, steps=7)
        assert density.get_params()["steps"] == 7
        assert {key: density.get_params()[key] for key in settings if key != "steps"} == {
            key: value for key, value in settings.items() if key != "steps"
        }
    with pytest.raises(LFMError, match="preset: 'papper' is unknown; did you mean paper"):
        LocalFlowDensity.preset("papper")
