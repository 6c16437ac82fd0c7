"""Every check on clean data, where it says nothing, and on data with its fault planted, where it names the place."""

from __future__ import annotations

import numpy as np
import pytest

from lfm_policy.data import checks
from lfm_policy.data.checks import Finding
from tests.data.recordings import Episode

N_DEMOS = 12


@pytest.fixture
def series(clean: dict[str, Episode]) -> dict[str, np.ndarray]:
    return {demo: arrays["obs/object"] for demo, arrays in clean.items()}


@pytest.fixture
def actions(clean: dict[str, Episode]) -> dict[str, np.ndarray]:
    return {demo: arrays["actions"] for demo, arrays in clean.items()}


@pytest.fixture
def lengths(clean: dict[str, Episode]) -> dict[str, int]:
    return {demo: len(arrays["actions"]) for demo, arrays in clean.items()}


def only(findings: list[Finding], severity: str, demo: str = "") -> str:
    """The text of the one finding, which has this severity and place."""
    assert [(finding.severity, finding.demo) for finding in findings] == [(severity, demo)]
    return findings[0].text


class TestShapes:
    def test_clean(self, series: dict[str, np.ndarray], lengths: dict[str, int]) -> None:
        shapes = {demo: steps.shape for demo, steps in series.items()}
        assert checks.find_shape_mismatch("obs/object", shapes, lengths) == []

    @pytest.mark.parametrize(
        ("shape", "text"),
        [
            (None, "k is missing"),
            ((3, 10), "k has 3 steps, actions 64"),
            ((64, 9), "k has width 9, most demonstrations 10"),
            ((64,), "k has width 1, most demonstrations 10"),
        ],
    )
    def test_planted(self, shape: tuple[int, ...] | None, text: str) -> None:
        lengths = {f"demo_{index}": 64 for index in range(4)}
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(lengths, (64, 10))
        del shapes["demo_2"]
        shapes |= {} if shape is None else {"demo_2": shape}
        assert only(checks.find_shape_mismatch("k", shapes, lengths), "error", "demo_2") == text


class TestNotFinite:
    def test_clean(self, series: dict[str, np.ndarray]) -> None:
        assert checks.find_not_finite("k", series) == []

    def test_planted(self, series: dict[str, np.ndarray]) -> None:
        series["demo_4"][17, 3] = np.nan
        assert only(checks.find_not_finite("k", series), "error", "demo_4") == "k is nan at step 17, dimension 3"
        series["demo_4"][5:7, 1] = -np.inf
        text = only(checks.find_not_finite("k", series), "error", "demo_4")
        assert text == "k is -inf at step 5, dimension 1, 3 values in all"


class TestConstant:
    def test_clean(self, series: dict[str, np.ndarray]) -> None:
        assert checks.find_constant("k", series) == []

    def test_planted(self, series: dict[str, np.ndarray]) -> None:
        for steps in series.values():
            steps[:, [2, 5, 6]] = [0.25, 1, 0]
            steps[0, 6] = 9e-5
        text = only(checks.find_constant("k", series), "note")
        assert text.startswith("k: dimensions 2, 5-6 never vary (0.25, 1, ")

    def test_a_dimension_that_differs_between_demonstrations_varies(self, series: dict[str, np.ndarray]) -> None:
        for index, steps in enumerate(series.values()):
            steps[:, 2] = index
        assert checks.find_constant("k", series) == []


class TestSaturated:
    def test_clean(self, actions: dict[str, np.ndarray]) -> None:
        """The gripper, which is always at -1 or 1, is a switch."""
        assert checks.find_saturated("actions", actions, bound=1) == []

    def test_planted(self, actions: dict[str, np.ndarray]) -> None:
        for steps in actions.values():
            steps[:, 4] = np.clip(10 * steps[:, 4], -0.6, 0.6)
        text = only(checks.find_saturated("actions", actions), "warning")
        assert text.startswith("actions, dimension 4: ")
        assert text.endswith("% of the steps at -0.6 or 0.6")

    def test_beyond_what_the_controller_takes(self, actions: dict[str, np.ndarray]) -> None:
        for steps in actions.values():
            steps[:, 1] *= 8
        assert checks.find_saturated("actions", actions) == []
        text = only(checks.find_saturated("actions", actions, bound=1), "warning")
        assert "at -1 or 1, to which the controller clips" in text


class TestIdle:
    def idle(self, clean: dict[str, Episode], absolute: bool = False) -> list[Finding]:
        key = "actions_abs" if absolute else "actions"
        actions = {demo: arrays[key] for demo, arrays in clean.items()}
        seen = {demo: np.hstack([arrays["obs/object"], arrays["obs/robot0_eef_pos"]]) for demo, arrays in clean.items()}
        return checks.find_idle(checks.idle_steps(actions, seen, absolute))

    def wait(self, arrays: Episode, where: slice) -> None:
        """No command, nothing moves, and the absolute goal stays."""
        arrays["actions"][where, :6] = 0
        for key in ("obs/object", "obs/robot0_eef_pos", "actions_abs"):
            arrays[key][where] = arrays[key][where][0]

    @pytest.mark.parametrize("absolute", [False, True])
    def test_clean(self, clean: dict[str, Episode], absolute: bool) -> None:
        assert self.idle(clean, absolute) == []

    @pytest.mark.parametrize("absolute", [False, True])
    def test_planted(self, clean: dict[str, Episode], absolute: bool) -> None:
        self.wait(clean["demo_3"], slice(0, 20))
        self.wait(clean["demo_5"], slice(-15, None))
        first, last = self.idle(clean, absolute)
        assert (first.demo, last.demo) == ("demo_3", "demo_5")
        assert first.text in ("idle in its first 19 steps", "idle in its first 20 steps")
        assert last.text in ("idle in its last 14 steps", "idle in its last 15 steps")

    def test_everywhere(self, clean: dict[str, Episode]) -> None:
        for arrays in clean.values():
            self.wait(arrays, slice(30, 40))
        text = only(self.idle(clean), "warning")
        assert text == "12% of all steps are idle: no action, no motion"

    def test_a_whole_demonstration(self, clean: dict[str, Episode]) -> None:
        self.wait(clean["demo_0"], slice(None))
        clean["demo_0"]["actions"][:, 6] = -1
        findings = [finding.text for finding in self.idle(clean) if finding.demo]
        assert findings == [f"idle in all {len(clean['demo_0']['actions'])} steps"]

    def test_a_gripper_that_closes_is_not_idle(self, clean: dict[str, Episode]) -> None:
        self.wait(clean["demo_0"], slice(None))
        flags = checks.idle_steps(
            {"demo_0": clean["demo_0"]["actions"]}, {"demo_0": clean["demo_0"]["obs/object"]}, False
        )
        length = len(flags["demo_0"])
        assert np.flatnonzero(~flags["demo_0"]).tolist() == [length // 2]

    def test_motion_without_a_command_is_not_idle(self, clean: dict[str, Episode]) -> None:
        for arrays in clean.values():
            arrays["actions"][:30, :6] = 0
        assert self.idle(clean) == []


class TestJumps:
    def test_clean(self, clean: dict[str, Episode]) -> None:
        for key in ("obs/object", "obs/robot0_eef_quat", "actions_abs"):
            series = {demo: arrays[key] for demo, arrays in clean.items()}
            assert checks.find_jumps(key, series) == []
            assert checks.find_sign_flips(key, series) == []

    @pytest.mark.parametrize("step", [0, 1, 2, 30, -3, -2])
    def test_a_teleport(self, series: dict[str, np.ndarray], step: int) -> None:
        steps = series["demo_6"]
        steps[step % len(steps) + 1 :, 4] += 3
        step %= len(steps)
        text = only(checks.find_jumps("k", series), "warning", "demo_6")
        assert text.startswith(f"k, dimension 4, step {step} to {step + 1}: from ")

    def test_a_single_wrong_frame(self, series: dict[str, np.ndarray]) -> None:
        series["demo_6"][30, 2:4] -= 5
        there, back = checks.find_jumps("k", series)
        assert there.text.startswith("k, dimensions 2-3, step 29 to 30: from ")
        assert back.text.startswith("k, dimensions 2-3, step 30 to 31: from ")

    @pytest.mark.parametrize("duration", [5, 10])
    def test_an_object_that_is_picked_up_fast_does_not_jump(self, series: dict[str, np.ndarray], duration: int) -> None:
        for steps in series.values():
            steps[:, 0] = np.interp(np.arange(len(steps)), [40, 40 + duration], [0.82, 0.9])
        assert checks.find_jumps("k", series) == []

    def test_a_flag_does_not_jump(self, series: dict[str, np.ndarray]) -> None:
        for steps in series.values():
            steps[:, 0] = np.arange(len(steps)) > 30
        assert checks.find_jumps("k", series) == []

    def test_a_first_observation_of_zeros(self, series: dict[str, np.ndarray]) -> None:
        for steps in series.values():
            steps += 4
            steps[0, :7] = 0
        text = only(checks.find_jumps("k", series), "warning")
        assert text.startswith("k, dimensions 0-6, step 0 to 1: zero at first")
        assert text.endswith(f"in {N_DEMOS} of {N_DEMOS} demonstrations")

    def test_objects_that_fall_into_place_at_the_start(self, series: dict[str, np.ndarray]) -> None:
        for steps in series.values():
            steps[:, 5] = 0.82
            steps[0, 5] = 0.83
            steps[50:, 5] += 1e-3
        text = only(checks.find_jumps("k", series), "note")
        assert text.startswith("k, dimension 5, step 0 to 1: from 0.83 to 0.82 in demo_0, and the like in 12 of 12")

    def test_a_quaternion_that_changes_sign(self, clean: dict[str, Episode]) -> None:
        series = {demo: arrays["obs/robot0_eef_quat"] for demo, arrays in clean.items()}
        series["demo_2"][20:] *= -1
        series["demo_4"][[30, 41]] *= -1
        assert checks.find_jumps("k", series) == []
        text = only(checks.find_sign_flips("k", series), "note")
        assert text.startswith("k: x jumps to -x in dimension")
        assert text.endswith("5 times in 2 demonstrations, first in demo_2, step 19 to 20")

    def test_very_short_demonstrations(self) -> None:
        assert checks.find_jumps("k", {"demo_0": np.zeros((1, 2)), "demo_1": np.eye(2)}) == []


class TestDuplicates:
    def starts(self, clean: dict[str, Episode]) -> dict[str, np.ndarray]:
        return {demo: arrays["obs/object"][0] for demo, arrays in clean.items()}

    def test_clean(self, clean: dict[str, Episode], actions: dict[str, np.ndarray]) -> None:
        assert checks.duplicate_groups(actions) == []
        assert checks.find_duplicates(actions, self.starts(clean)) == []

    def test_planted(self, clean: dict[str, Episode], actions: dict[str, np.ndarray]) -> None:
        actions["demo_9"] = actions["demo_1"].copy()
        actions["demo_4"] = actions["demo_1"].copy()
        assert checks.duplicate_groups(actions) == [("demo_1", "demo_4", "demo_9")]
        text = only(checks.find_duplicates(actions, self.starts(clean)), "warning")
        assert text == "equal actions in demo_1, demo_4, demo_9, from different states"

    def test_whole_copies_are_told_once(self, clean: dict[str, Episode]) -> None:
        clean["demo_9"] = clean["demo_1"]
        actions = {demo: arrays["actions"] for demo, arrays in clean.items()}
        text = only(checks.find_duplicates(actions, self.starts(clean)), "warning")
        assert text == "equal actions in demo_1, demo_9, from the same state"

    def test_equal_beginnings(self, clean: dict[str, Episode], actions: dict[str, np.ndarray]) -> None:
        starts = self.starts(clean)
        starts["demo_9"] = starts["demo_1"]
        text = only(checks.find_duplicates(actions, starts), "note")
        assert text == "demo_1, demo_9 begin in the same state, with other actions"


class TestLengths:
    def test_clean(self, lengths: dict[str, int]) -> None:
        assert checks.find_length_outliers(lengths) == []
        assert checks.find_length_outliers({"demo_0": 50}) == []
        assert checks.find_length_outliers(dict.fromkeys(lengths, 50) | {"demo_3": 52}) == []

    @pytest.mark.parametrize("length", [3, 400])
    def test_planted(self, lengths: dict[str, int], length: int) -> None:
        lengths["demo_3"] = length
        text = only(checks.find_length_outliers(lengths), "warning", "demo_3")
        assert text.startswith(f"{length} steps, where the median is 6")


class TestLeaks:
    DEMOS = tuple(f"demo_{index}" for index in range(6))
    CLEAN: dict[str, list[str]] = {  # noqa: RUF012
        "train": ["demo_0", "demo_1", "demo_2", "demo_3"],
        "valid": ["demo_4", "demo_5"],
        "20_percent_train": ["demo_0"],
        "20_percent_valid": ["demo_4"],
        "better": ["demo_0", "demo_4"],
    }

    def test_clean(self) -> None:
        assert checks.find_leaks(self.CLEAN, self.DEMOS, []) == []
        assert checks.find_leaks(self.CLEAN, self.DEMOS, [("demo_0", "demo_1")]) == []
        assert checks.find_leaks({}, self.DEMOS, [("demo_0", "demo_5")]) == []

    def test_a_demonstration_in_both(self) -> None:
        masks = self.CLEAN | {"valid": ["demo_3", "demo_4"]}
        text = only(checks.find_leaks(masks, self.DEMOS, []), "error")
        assert text == "demo_3 in both mask/train and mask/valid"
        masks = self.CLEAN | {"20_percent_valid": ["demo_0"]}
        assert "20_percent_valid" in only(checks.find_leaks(masks, self.DEMOS, []), "error")

    def test_a_copy_on_the_other_side(self) -> None:
        text = only(checks.find_leaks(self.CLEAN, self.DEMOS, [("demo_2", "demo_5")]), "error")
        assert text == "demo_5 of mask/valid equals demo_2 to train on"

    def test_a_name_of_nothing(self) -> None:
        text = only(checks.find_leaks(self.CLEAN | {"few": ["demo_77"]}, self.DEMOS, []), "error")
        assert text == "mask/few names demo_77, which the file has not"


class TestRewardsAndDones:
    @staticmethod
    def column(length: int, at: int | None) -> np.ndarray:
        return (np.arange(length)[:, None] == at).astype(float)

    def test_clean(self) -> None:
        ends = {f"demo_{index}": self.column(9, 8) for index in range(3)}
        assert checks.find_no_success(ends) == []
        assert checks.find_odd_dones(ends) == []
        held = {"demo_0": np.array([[0], [0], [1], [1], [1]])}
        assert checks.find_odd_dones(held) == []

    def test_planted(self) -> None:
        ends = {"demo_0": self.column(9, 8), "demo_1": self.column(9, None), "demo_2": self.column(9, 8)}
        assert only(checks.find_no_success(ends), "warning", "demo_1") == "no step has a reward above 0: no success"
        assert only(checks.find_odd_dones(ends), "note", "demo_1") == "is not done in its last step"

    def test_all_of_them(self) -> None:
        never = {f"demo_{index}": self.column(9, None) for index in range(3)}
        assert only(checks.find_no_success(never), "warning") == "no demonstration has a reward above 0"
        assert only(checks.find_odd_dones(never), "note") == "no demonstration is done in its last step"

    def test_done_and_going_on(self) -> None:
        dones = {"demo_0": np.array([[0], [1], [0], [0], [1]])}
        assert only(checks.find_odd_dones(dones), "note", "demo_0") == "is done at step 1 and goes on for 3 steps"
