"""A mapping picks columns out of vectors: what it gives is what slicing by hand gives."""

from __future__ import annotations

import numpy as np
import pytest

from lfm_policy.data.mapping import select
from lfm_policy.flow.errors import LFMError

STATE, GOAL = np.arange(20.0).reshape(2, 10), np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state", STATE),
        ("state[3]", STATE[:, 3:4]),
        ("state[2:5]", STATE[:, 2:5]),
        ("state[7:]", STATE[:, 7:]),
        (" state[ : 2 ] ", STATE[:, :2]),
        ("goal, state[0:2]", np.concatenate([GOAL, STATE[:, :2]], axis=1)),
    ],
)
def test_columns_are_those_of_a_slice(text: str, expected: np.ndarray) -> None:
    values = {"state": STATE, "goal": GOAL}
    np.testing.assert_array_equal(select(values, {"key": text}, "env")["key"], expected)
    # of one step as of many
    step = select({name: array[1] for name, array in values.items()}, {"key": text}, "env")["key"]
    np.testing.assert_array_equal(step, expected[1])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stat[0:2]", "env: observation.key asks for 'stat'; there are goal, state"),
        ("state[8:12]", r"env: observation.key asks for state\[8:12\], but state has shape \(2, 10\)"),
        ("state[10:]", r"but state has shape \(2, 10\)"),
        ("state[4:2]", r"but state has shape \(2, 10\)"),
        ("state[a:b]", r"observation.key: 'state\[a:b\]' cannot be read; write it like"),
        ("state[]", r"observation.key: 'state\[\]' cannot be read"),
        ("", "observation.key: '' cannot be read"),
    ],
)
def test_what_is_not_there_is_named(text: str, told: str) -> None:
    with pytest.raises(LFMError, match=told):
        select({"state": STATE, "goal": GOAL}, {"key": text}, "env")
