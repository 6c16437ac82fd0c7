"""Points to go around by: checked against complex numbers, in which a turn to the left is a factor of i."""

from __future__ import annotations

import numpy as np
import pytest

from envs.experts.paths import beside, beyond, pulled_in

START, END = np.array([0.1, -0.3, 0.9]), np.array([0.4, 0.1, 1.1])


def flat(point):
    return complex(*point[:2])


@pytest.mark.parametrize("metres", [0.07, -0.05])
def test_beside_is_halfway_and_to_the_left(metres):
    point = beside(START, END, metres)
    off = (flat(point) - (flat(START) + flat(END)) / 2) / (flat(END) - flat(START))
    assert off * abs(flat(END) - flat(START)) == pytest.approx(1j * metres)
    assert point[2] == pytest.approx(1.0)


def test_beyond_lies_on_the_way_at_the_height_of_its_end():
    point = beyond(START, END, 0.05)
    assert abs(flat(point) - flat(START)) == pytest.approx(abs(flat(END) - flat(START)) + 0.05)
    assert abs(flat(point) - flat(END)) == pytest.approx(0.05)
    assert point[2] == END[2]


def test_pulled_in_moves_only_what_is_too_far():
    np.testing.assert_array_equal(pulled_in(END, START, 0.6), END)
    point = pulled_in(END, START, 0.2)
    assert flat(point) - flat(START) == pytest.approx((flat(END) - flat(START)) * 0.2 / 0.5)
    assert point[2] == END[2]
