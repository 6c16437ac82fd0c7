"""What a comparison says of its rows: counted by hand, in numbers, in words and in pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lfm_policy.evaluation.comparison import Evaluated
from lfm_policy.evaluation.comparison_report import conclusions, report, to_json
from lfm_policy.evaluation.crossed import crossed_mean
from lfm_policy.evaluation.paired import PairedCounts, holm, mcnemar, newcombe
from lfm_policy.evaluation.statistics import mean_interval, wilson
from lfm_policy.flow.errors import LFMError
from tests.evaluation.evaluated import FIRST, A, B, at, compared, drawn, evaluated


def test_a_pair_is_counted_over_its_episodes() -> None:
    comparison = compared(evaluated("a", A), evaluated("b", B))
    (pair,) = comparison.pairs
    counts = PairedCounts(both=8, first=9, second=3, neither=0)
    assert pair.labels == ("a", "b")
    assert pair.runs[0].counts == counts
    assert (pair.success.value, pair.success.interval) == (pytest.approx(0.3), newcombe(counts))
    assert pair.success.p == pair.success.p_holm == mcnemar(counts)
    assert comparison.method("a").success.value == 17 / 20
    assert comparison.method("a").success.interval == wilson(17, 20)
    assert comparison.seeds == tuple(range(FIRST, FIRST + 20))
    assert pair.score is None, "rewards of 0 and 1 say what success says"


def test_the_order_of_rows_does_not_matter() -> None:
    a, b = evaluated("a", A), evaluated("b", B)
    turned = Evaluated("b", b.rows[::-1], b.identity)
    assert compared(a, turned).pairs[0].success == compared(a, b).pairs[0].success


def test_time_goes_where_the_rows_say() -> None:
    method = compared(evaluated("a", A)).method("a")
    assert method.seconds == pytest.approx({"simulation": 0.5, "inference": 0.3, "rest": 0.2})
    assert method.steps_per_second == {"simulator": 20.0, "rollout": 10.0}
    assert method.latency_ms["p50"] == 150


def test_scores_have_their_own_difference_and_correction() -> None:
    rng = np.random.default_rng(0)
    scores = {label: rng.random(30).tolist() for label in "abc"}
    scores["a"] = [min(score + 0.3, 1.0) for score in scores["b"]]
    runs = [evaluated(label, [False] * 30, scores=values) for label, values in scores.items()]
    comparison = compared(*runs)
    differences = [a - b for a, b in zip(scores["a"], scores["b"], strict=True)]
    found = {pair.labels: pair.score for pair in comparison.pairs}
    first = found["a", "b"]
    assert first is not None
    assert first.value == pytest.approx(np.mean(differences))
    assert first.interval == mean_interval(differences)
    assert first.verdict == "better"
    ps = [score.p for score in found.values() if score]
    assert [score.p_holm for score in found.values() if score] == holm(ps)
    assert all(pair.success.verdict == "not told apart" for pair in comparison.pairs)


def test_better_is_said_only_where_the_corrected_test_says_so() -> None:
    """Eight discordant episodes of one kind have p = 0.0078: below 0.05 with six pairs, above with seven."""
    base = [False] * 40
    gain = [True] * 8 + base[8:]
    six = compared(evaluated("a", gain), *(evaluated(label, base) for label in "bcd"))
    assert [pair.success.verdict for pair in six.pairs if pair.labels[0] == "a"] == ["better"] * 3
    seven = compared(evaluated("a", gain), *(evaluated(label, base) for label in "bcdefgh"), baseline="a")
    assert len(seven.pairs) == 7
    assert {pair.success.verdict for pair in seven.pairs} == {"not told apart"}
    for comparison in (six, seven):
        for pair, told in zip(comparison.pairs, conclusions(comparison), strict=True):
            assert f"{pair.labels[0]} and {pair.labels[1]}: success {pair.success.verdict}, " in told
            assert "40 episodes, 1 and 1 training runs" in told
    words = report(seven).split("\n\n")[2]
    assert "better" not in words
    assert "worse" not in words


def test_further_episodes_are_told_as_long_as_policies_are_not() -> None:
    near = compared(drawn("a", 0.8, 100, 1), drawn("b", 0.8, 100, 2)).pairs[0]
    assert near.episodes is not None
    assert near.further_episodes(100) == near.episodes - 100
    far = compared(evaluated("a", [True] * 50), evaluated("b", [False] * 50)).pairs[0]
    assert far.further_episodes(50) == 0
    same = compared(evaluated("a", A), evaluated("b", A))
    assert same.pairs[0].further_episodes(20) is None
    assert "not from these" in report(same)


def test_the_baseline_stands_second() -> None:
    runs = [evaluated(label, A) for label in ("a", "b", "c")]
    assert [pair.labels for pair in compared(*runs, baseline="b").pairs] == [("a", "b"), ("c", "b")]
    points = [evaluated("b@2", A, nfe=8), evaluated("b", A)]
    for listed in (points, points[::-1]):
        assert [pair.labels for pair in compared(*listed, baseline="b").pairs] == [("b@2", "b")]
    with pytest.raises(LFMError, match="--baseline d: is not compared; choose from a, b, c"):
        compared(*runs, baseline="d")


def test_pairs_differ_in_one_thing() -> None:
    """Names at equal points, training or sampler within a name, and names at equal arithmetic."""
    budget = {"half": 50.0, "full": 100.0}
    runs = [
        evaluated(f"{name}@{share}", A, step=step, nfe=nfe, multiply_adds=nfe * cost)
        for name, nfe, cost in (("lfm", 8, 10), ("fm", 4, 20), ("x", 3, 10))
        for share, step in budget.items()
    ]
    pairs = {pair.labels for pair in compared(*runs).pairs}
    assert ("lfm@half", "lfm@full") in pairs
    assert ("lfm@half", "fm@half") in pairs
    assert ("lfm@half", "fm@full") not in pairs
    runs = [evaluated("lfm@2", A, nfe=8, multiply_adds=80), evaluated("fm@4", A, nfe=4, multiply_adds=90)]
    runs += [evaluated("fm@8", A, nfe=8, multiply_adds=160), evaluated("x@9", A, nfe=1, multiply_adds=7)]
    pairs = {pair.labels for pair in compared(*runs).pairs}
    assert {("lfm@2", "fm@4"), ("lfm@2", "fm@8")} <= pairs
    assert not any("x@9" in labels for labels in pairs)


def test_a_label_without_a_point_meets_its_like() -> None:
    """A sweep's own samplers have no point; where a policy has no sampler, it meets those of the others."""
    runs = [evaluated("lfm", A, nfe=16), evaluated("lfm@euler1", A, nfe=4), evaluated("paper", A, nfe=16)]
    assert [pair.labels for pair in compared(*runs).pairs] == [("lfm", "lfm@euler1"), ("lfm", "paper")]
    runs = [evaluated("lfm@1", A, nfe=4), evaluated("lfm@2", A, nfe=8), evaluated("regression", A, nfe=1)]
    assert {("lfm@1", "regression"), ("lfm@2", "regression")} <= {pair.labels for pair in compared(*runs).pairs}


def test_several_training_runs_are_compared_as_means_over_them() -> None:
    n, rates = 30, {"a": (0.9, 0.8, 0.95), "b": (0.5, 0.3, 0.6)}
    runs = [drawn(label, rate, n, seed) for label in rates for seed, rate in enumerate(rates[label])]
    comparison = compared(*runs)
    (pair,) = comparison.pairs
    a, b = (np.array([[row["success"] for row in run.rows] for run in comparison.method(label).runs]) for label in "ab")
    mean = crossed_mean((1.0, a.astype(float)), (-1.0, b.astype(float)))
    assert pair.success.value == pytest.approx(a.mean() - b.mean())
    assert (pair.success.interval, pair.success.p) == (mean.interval(), mean.p_value)
    assert [run.training_seeds for run in pair.runs] == [(0, 0), (1, 1), (2, 2)]
    assert [run.p for run in pair.runs] == [mcnemar(run.counts) for run in pair.runs]
    assert not pair.is_exact
    text = report(comparison)
    assert "3 training runs each" in text
    assert "another training seed may come out otherwise" not in text


def test_unequal_numbers_of_runs_are_not_paired_one_by_one() -> None:
    """Counts of the first runs would pass for those of all."""
    runs = [drawn("a", 0.9, 30, seed) for seed in range(3)] + [drawn("b", 0.5, 30, seed) for seed in range(2)]
    comparison = compared(*runs)
    (pair,) = comparison.pairs
    assert pair.runs == ()
    means = [np.mean([row["success"] for run in comparison.method(label).runs for row in run.rows]) for label in "ab"]
    assert pair.success.value == pytest.approx(means[0] - means[1])
    assert to_json(comparison)["pairs"][0]["training_runs"] == []
    (line,) = (line for line in report(comparison).splitlines() if line.startswith("a - b"))
    assert line.split()[3] == "-"


def test_runs_that_always_succeed_leave_a_difference_open() -> None:
    always = [evaluated(label, [True] * 20, training_seed=seed) for label in "ab" for seed in range(2)]
    (pair,) = compared(*always).pairs
    assert pair.success.interval == newcombe(PairedCounts(both=20, first=0, second=0, neither=0))


def test_the_interval_of_several_runs_is_no_narrower_than_all_their_episodes_allow() -> None:
    runs = [drawn("a", 0.8, 50, seed) for seed in range(3)]
    low, high = compared(*runs).method("a").success.interval
    successes = sum(row["success"] for run in runs for row in run.rows)
    least = wilson(int(successes), 150)
    assert low <= least[0] + 1e-12
    assert high >= least[1] - 1e-12
    always = compared(*(evaluated("a", [True] * 20, training_seed=seed) for seed in range(3))).method("a")
    assert always.success.interval == pytest.approx(wilson(20, 20)), "runs without failures are not surer than one"


def test_the_interval_of_several_runs_is_as_wide_as_they_vary() -> None:
    """The same 24 successes of 40, of two runs alike and of two as unlike as can be."""
    counts = {"alike": (12, 12), "apart": (4, 20)}
    runs = [
        evaluated(label, [True] * count + [False] * (20 - count), training_seed=seed)
        for label, each in counts.items()
        for seed, count in enumerate(each)
    ]
    comparison = compared(*runs)
    width = {label: np.diff(comparison.method(label).success.interval)[0] for label in counts}
    one = wilson(12, 20)
    assert 1 < width["alike"] / (one[1] - one[0]) < 1.1, "20 episodes twice are worth 20, but for Student's t"
    assert width["apart"] > 1.5 * width["alike"]


def test_scores_of_several_runs_are_means_over_them() -> None:
    rng = np.random.default_rng(3)
    scores = {label: rng.random((2, 12)) * scale for label, scale in (("a", 1.0), ("b", 0.5))}
    runs = [
        evaluated(label, [False] * 12, scores=row.tolist(), training_seed=seed)
        for label, grid in scores.items()
        for seed, row in enumerate(grid)
    ]
    comparison = compared(*runs)
    for label, grid in scores.items():
        (figure, mean) = comparison.method(label).score, crossed_mean((1.0, grid))
        assert figure is not None
        assert (figure.value, figure.interval) == (pytest.approx(grid.mean()), mean.interval())
    difference, mean = comparison.pairs[0].score, crossed_mean((1.0, scores["a"]), (-1.0, scores["b"]))
    assert difference is not None
    assert difference.value == pytest.approx(scores["a"].mean() - scores["b"].mean())
    assert (difference.interval, difference.p) == (mean.interval(), mean.p_value)
    single = compared(*(run for run in runs if run.training_seed == 0)).method("a").score
    assert single is not None
    assert single.interval == mean_interval(scores["a"][0].tolist())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Evaluated("b", evaluated("b", A).rows[1:]), f"a and b are not paired \\(seeds {FIRST}\\)"),
        (Evaluated("b", [*evaluated("b", A).rows, evaluated("b", A).rows[0]]), "a seed twice"),
    ],
)
def test_other_seeds_are_refused(other: Evaluated, told: str) -> None:
    with pytest.raises(LFMError, match=told):
        compared(evaluated("a", A), other)


def test_pairs_of_two_names_have_one_temperature() -> None:
    cooled = [run for name in "ab" for run in (at(f"{name}@1", None), at(f"{name}@1.temperature0.5", 0.5))]
    direct = evaluated("direct@1", B, step=100.0, nfe=16)
    pairs = {pair.labels for pair in compared(*cooled, direct).pairs}
    assert pairs == {
        *((f"{name}@1", f"{name}@1.temperature0.5") for name in "ab"),
        *((f"a@{point}", f"b@{point}") for point in ("1", "1.temperature0.5")),
        *((f"{name}@{point}", "direct@1") for name in "ab" for point in ("1", "1.temperature0.5")),
    }
    bare = [replace(run, label=run.label.replace("@1.", "@").removesuffix("@1")) for run in cooled]
    pairs = {pair.labels for pair in compared(*bare, replace(direct, label="direct")).pairs}
    assert pairs == {
        *((name, f"{name}@temperature0.5") for name in "ab"),
        *((f"a{point}", f"b{point}") for point in ("", "@temperature0.5")),
        *((f"{name}{point}", "direct") for name in "ab" for point in ("", "@temperature0.5")),
    }


def test_students_meet_their_teacher_at_every_temperature() -> None:
    """Those of a distillation have steps of their own, and no number of solver steps in their label."""
    teacher = [at(f"lfm@2.temperature{t:g}", t) for t in (1, 1e-5)]
    students = [replace(at(f"students@temperature{t:g}", t), step=7.0, nfe=4) for t in (1, 1e-5)]
    pairs = {pair.labels for pair in compared(*teacher, *students, evaluated("direct", B)).pairs}
    assert {("lfm@2.temperature1", "students@temperature1"), ("lfm@2.temperature1e-05", "direct")} <= pairs
    assert ("lfm@2.temperature1", "students@temperature1e-05") not in pairs


def test_one_name_at_another_budget_and_temperature_differs_in_two_things() -> None:
    early = replace(at("a@0.5.temperature0.5", 0.5), step=50.0)
    assert compared(at("a@1", None), early).pairs == ()
    assert len(compared(at("a@1.temperature0.5", 0.5), early).pairs) == 1
