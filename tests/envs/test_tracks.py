"""A track plays phases as they say: with a point mass for an arm, which obeys every action at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs.experts.phases import CLOSE, NOISE_MEMORY, NOISE_SCALE, OPEN, RETRIES, Habits, Phase, Track
from envs.experts.poses import Pose

PLAIN = Habits(speed=1.0, gain=1.0, turn=1.0, turn_gain=1.0, noise=0.0)


class PointArm:
    """Moves by 5 cm and turns by half a radian at an action of 1."""

    metres, radians = 0.05, 0.5

    def __init__(self) -> None:
        self.pose = Pose(np.zeros(3), np.eye(3))

    def hand(self) -> Pose:
        return self.pose

    def in_controller_frame(self, vector: np.ndarray) -> np.ndarray:
        return vector

    def take(self, action: np.ndarray) -> None:
        turn = Rotation.from_rotvec(self.radians * action[3:6]).as_matrix()
        self.pose = Pose(self.pose.position + self.metres * action[:3], turn @ self.pose.rotation)


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Callable[[], Pose]:
    return lambda: Pose(np.array([x, y, z]), Rotation.from_rotvec(turn).as_matrix())


HERE, FAR = at(), at(100.0)
NEAR = (0.001, 0.001)
END = Phase("end", HERE, OPEN, 1, 1)


def play(phases: list[Phase], steps: int, habits: Habits = PLAIN) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the phases that acted, actions (steps, 7) and positions after them (steps, 3)."""
    arm: Any = PointArm()
    track = Track(arm, phases, habits, np.random.default_rng(0))
    names, actions, positions = [], [], []
    for _ in range(steps):
        actions.append(track.act())
        names.append(track.phase.name)
        arm.take(actions[-1])
        positions.append(arm.pose.position)
    return names, np.array(actions), np.array(positions)


def runs(names: list[str]) -> list[tuple[str, int]]:
    return [(name, len(list(group))) for name, group in groupby(names)]


def test_the_hand_goes_straight_at_its_speed_and_arrives():
    """12 full steps of half an action and a rest: 0.31 m at 0.025 m a step."""
    go = Phase("go", at(0.31, 0.155), OPEN, 1, 99, tolerance=NEAR)
    names, actions, positions = play([go, END], 14, replace(PLAIN, speed=0.5))
    assert runs(names) == [("go", 13), ("end", 1)]
    np.testing.assert_allclose(positions[:13, 0], [*0.025 * np.arange(1, 13), 0.31], atol=1e-12)
    np.testing.assert_allclose(positions[:13, 1], positions[:13, 0] / 2, atol=1e-12)
    np.testing.assert_allclose(actions[:13, 2:6], 0.0, atol=1e-12)


def test_the_hand_turns_to_its_target_about_one_axis():
    turned = Phase("turn", at(turn=(0.6, -1.2, 0.0)), CLOSE, 1, 99, tolerance=NEAR)
    names, actions, _ = play([turned, END], 8, replace(PLAIN, turn=0.5))
    # 1.2 rad at 0.25 rad a step along the longer part
    assert runs(names)[0] == ("turn", 5)
    np.testing.assert_allclose(actions[:4, 3:6], np.tile([0.25, -0.5, 0.0], (4, 1)), atol=1e-9)
    assert set(actions[:5, 6]) == {CLOSE}


@pytest.mark.parametrize(("own", "gain", "turn_gain"), [(None, 0.25, 0.4), (0.5, 0.5, 0.5)])
def test_what_is_left_shrinks_by_the_gain(own, gain, turn_gain):
    phase = Phase("go", at(0.01, turn=(0.0, 0.0, 0.1)), OPEN, 1, 99, gain=own)
    _, actions, positions = play([phase], 6, replace(PLAIN, gain=0.25, turn_gain=0.4))
    np.testing.assert_allclose(positions[:, 0], 0.01 * (1 - (1 - gain) ** np.arange(1, 7)), atol=1e-12)
    np.testing.assert_allclose(actions[:, 5], turn_gain * 0.1 / 0.5 * (1 - turn_gain) ** np.arange(6), atol=1e-9)


def test_a_phases_own_speed_bounds_where_it_is_the_lower_one():
    for own, bound in ((0.3, 0.3), (0.9, 0.6)):
        _, actions, _ = play([Phase("go", FAR, OPEN, 1, 99, speed=own)], 1, replace(PLAIN, speed=0.6))
        assert actions[0, 0] == pytest.approx(bound)


def test_height_apart_leaves_the_correction_sideways_whole():
    """1 cm aside is an action of 0.2; bounded together with 1 m down, it is a hundredth of the bound."""
    target = at(0.01, 0.0, -1.0)
    together, apart = (play([Phase("down", target, OPEN, 1, 99, apart=a)], 1)[1][0] for a in (False, True))
    np.testing.assert_allclose(together[:3], [0.01, 0.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(apart[:3], [0.2, 0.0, -1.0], atol=1e-12)


def test_noise_is_stationary_with_memory_and_smaller_on_rotation():
    _, actions, _ = play([Phase("stay", HERE, OPEN, 1, 99, noise=0.5, gain=0.0)], 6000, replace(PLAIN, noise=0.1))
    noise = actions[100:, :6]
    # 5900 draws with memory 0.7 tell as much as about 2000 without: 2 % of standard error
    np.testing.assert_allclose(noise.std(0), 0.05 * NOISE_SCALE, rtol=0.1)
    for column in noise.T:
        assert np.corrcoef(column[1:], column[:-1])[0, 1] == pytest.approx(NOISE_MEMORY, abs=0.05)
    assert np.abs(np.corrcoef(noise.T) - np.eye(6)).max() < 0.12


def test_actions_are_clipped_but_for_the_grip():
    _, actions, _ = play([Phase("go", FAR, CLOSE, 1, 99)], 50, replace(PLAIN, noise=20.0))
    assert np.abs(actions).max() == 1.0
    assert set(actions[:, 6]) == {CLOSE}


@pytest.mark.parametrize("least", [0, 1, 4])
def test_a_phase_that_has_arrived_takes_its_least_number_of_steps(least):
    names, _, _ = play([Phase("here", HERE, OPEN, least, 99, tolerance=NEAR), END], 6)
    assert names.count("here") == least


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_phase_of_a_fixed_length_takes_it(steps):
    """A pause that is drawn as 0 is passed over, in the middle and at the beginning."""
    pause = Phase("pause", FAR, OPEN, steps, steps)
    names, _, _ = play([pause, Phase("go", HERE, OPEN, 1, 1), pause, END], 10)
    assert names.count("pause") == 2 * steps
    assert names.count("go") == 1


def test_a_phase_ends_after_its_most_steps_and_the_last_never():
    names, _, _ = play([Phase("go", FAR, OPEN, 1, 5, tolerance=NEAR), Phase("stay", HERE, OPEN, 1, 2)], 20)
    assert runs(names) == [("go", 5), ("stay", 15)]


def test_settling_begins_anew_where_the_hand_has_left():
    """Ended by the third state in a row that is near: target gone in the third state, met from the fourth on."""
    seen: list[int] = []

    def target() -> Pose:
        seen.append(len(seen))
        return (FAR if len(seen) == 3 else HERE)()

    phase = Phase("settle", target, OPEN, 1, 99, tolerance=NEAR, settle=3, gain=0.0)
    assert runs(play([phase, END], 9)[0]) == [("settle", 5), ("end", 4)]


@pytest.mark.parametrize(("tolerance", "most", "steps"), [(NEAR, 99, 7), (None, 99, 7), (NEAR, 4, 4)])
def test_a_phase_waits_for_what_it_is_told_to_wait_for(tolerance, most, steps):
    asked: list[None] = []

    def until() -> bool:
        asked.append(None)
        return len(asked) == 7

    names, _, _ = play([Phase("wait", HERE, OPEN, 1, most, tolerance=tolerance, until=until), END], 9)
    assert runs(names)[0] == ("wait", steps)


def test_what_takes_too_long_is_tried_again_and_given_up_in_the_end():
    hover = Phase("hover", HERE, OPEN, 1, 2, tolerance=NEAR)
    down = Phase("down", FAR, OPEN, 1, 4, tolerance=NEAR, retry="hover", gain=0.0)
    names, _, _ = play([hover, down, END], 30)
    assert runs(names) == [*[("hover", 1), ("down", 4)] * (RETRIES + 1), ("end", 30 - 5 * (RETRIES + 1))]


def test_what_arrives_in_its_last_step_is_not_tried_again():
    hover = Phase("hover", HERE, OPEN, 1, 2, tolerance=NEAR)
    down = Phase("down", at(0.1), OPEN, 1, 2, tolerance=NEAR, retry="hover")
    assert runs(play([hover, down, END], 6)[0]) == [("hover", 1), ("down", 2), ("end", 3)]


def test_a_phase_has_begun_from_its_first_step_on():
    arm: Any = PointArm()
    track = Track(
        arm, [Phase("a", HERE, OPEN, 2, 2), Phase("b", HERE, OPEN, 2, 2), END], PLAIN, np.random.default_rng()
    )
    begun = []
    for _ in range(5):
        track.act()
        begun.append("".join(name for name in ("a", "b", "end") if track.begun(name)))
    assert begun == ["a", "a", "ab", "ab", "abend"]
