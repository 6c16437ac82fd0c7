"""What is said, written and drawn of a comparison: its words, its JSON, its pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lfm_policy.evaluation.comparison import Comparison
from lfm_policy.evaluation.comparison_plots import (
    EPOCHS,
    MILLISECONDS,
    NFE,
    STEPS,
    TEMPERATURE,
    curve_axes,
    curves_of,
    draw,
)
from lfm_policy.evaluation.comparison_report import report, to_json
from tests.evaluation.evaluated import FIRST, A, B, at, compared, drawn, evaluated, everything


def test_reports_fit_the_screen_and_tell_what_they_are_of() -> None:
    uneven = [drawn(f"method_{letter}", 0.5, 20, seed) for letter in "abcdefgh" for seed in range(ord(letter) % 2 + 1)]
    for comparison in (everything(), compared(*uneven), compared(evaluated("a", A), evaluated("b", B))):
        text = report(comparison)
        assert max(map(len, text.splitlines())) <= 120
        n = len(comparison.seeds)
        assert f"{n} paired episodes, seeds {FIRST} to {FIRST + n - 1}; " in text
        assert "lfm/Lift-v0, at most 400 steps" in text
        for pair in comparison.pairs:
            assert " - ".join(pair.labels) in text
    assert "trained on different data (sha256: a 0, b 1)" in report(everything())


def test_json_holds_everything_but_the_rows() -> None:
    comparison = everything()
    values = json.loads(json.dumps(to_json(comparison)))
    assert list(values["methods"]) == [method.label for method in comparison.methods]
    for method in comparison.methods:
        told = values["methods"][method.label]
        assert told["success_rate"] == method.success.value
        assert [run["rows"] for run in told["runs"]] == [run.rows_file for run in method.runs]
        assert [run["n_success"] for run in told["runs"]] == [
            sum(r["success"] for r in run.rows) for run in method.runs
        ]
    assert [(pair["first"], pair["second"]) for pair in values["pairs"]] == [pair.labels for pair in comparison.pairs]
    assert str(FIRST + 7) not in json.dumps(values["methods"])


def test_reports_tell_temperatures_that_differ() -> None:
    text = report(compared(at("a", 0.5), at("b", None), evaluated("direct", B)))
    assert "1 in training: 0.5: a; 1: b." in " ".join(text.split())
    assert "emperature" not in report(compared(at("a", None), at("b", 1.0)))


def test_temperatures_have_their_curve_and_hold_others_apart() -> None:
    runs = [at(f"a@1.{t:g}", t) for t in (1.0, 0.0, 0.5)] + [replace(at("a@0.5", None), step=50.0)]
    comparison = compared(*runs)
    assert curve_axes(comparison) == [STEPS, TEMPERATURE]
    curves = curves_of(comparison, TEMPERATURE)
    assert [[method.first.temperature for method in points] for points in curves.values()] == [[1], [0, 0.5, 1]]
    assert set(curves) == {"a, 50 steps", "a, 100 steps"}
    assert "a, temperature 0.5" in curves_of(comparison, STEPS)


def test_curves_are_of_what_varies_and_hold_the_rest_equal() -> None:
    comparison = everything()
    assert curve_axes(comparison) == [STEPS, NFE, MILLISECONDS]
    training = curves_of(comparison, STEPS)
    assert set(training) == {
        f"{name}, NFE {nfe}" for name in ("local_flow_matching", "flow_matching") for nfe in (2, 8)
    }
    for points in training.values():
        assert [method.first.step for method in points] == [30, 60, 120]
        assert len({method.first.nfe for method in points}) == 1
    for points in curves_of(comparison, NFE).values():
        assert [method.first.nfe for method in points] == [2, 8]
        assert len({method.first.step for method in points}) == 1
    assert curve_axes(compared(evaluated("a", A, nfe=2), evaluated("b", B, nfe=4))) == []
    epochs = [evaluated(f"a@{k}", A, step=10.0 * k, epochs=float(k), nfe=2) for k in (1, 2)]
    assert curve_axes(compared(*epochs)) == [EPOCHS]


def test_pictures_show_the_figures_and_their_intervals(tmp_path: Path, figures: list[Any]) -> None:
    """Rates and differences as points on their intervals, filled where told apart; curves with bars as long."""
    counts = {"a@1": 20, "a@2": 19, "b": 0}
    comparison = compared(
        *(evaluated(label, [True] * n + [False] * (24 - n), nfe=k + 1) for k, (label, n) in enumerate(counts.items()))
    )
    draw(comparison, tmp_path / "a.png")
    (figure,) = figures
    rates, differences, curve = figure.axes[:3]
    apart = [pair.success.verdict != "not told apart" for pair in comparison.pairs]
    assert set(apart) == {True, False}
    for lines, wanted, filled in (
        (rates.get_lines(), [method.success for method in comparison.methods], [True] * 3),
        (differences.get_lines()[1:], [pair.success for pair in comparison.pairs], apart),  # the first marks 0
    ):
        for place, (value, full) in enumerate(zip(wanted, filled, strict=True)):
            bar, point = lines[2 * place : 2 * place + 2]
            assert tuple(bar.get_xdata()) == value.interval
            assert (point.get_xdata()[0], point.get_ydata()[0]) == (value.value, place)
            assert (point.get_markerfacecolor() == "white") != full
    segments = curve.containers[0].lines[2][0].get_segments()
    for method, segment in zip(comparison.methods[:2], segments, strict=True):
        assert tuple(segment[:, 1]) == pytest.approx(method.success.interval)


@pytest.mark.parametrize(
    "comparison", [everything(), compared(evaluated("a", A)), compared(evaluated("a", A), evaluated("b", B))]
)
def test_pictures_are_drawn(tmp_path: Path, comparison: Comparison) -> None:
    from matplotlib import image

    draw(comparison, tmp_path / "a.png")
    pixels = image.imread(tmp_path / "a.png")
    assert pixels.shape[0] > 300
    inked = (pixels[..., :3].min(-1) < 0.9).mean()
    assert 0.005 < inked < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
