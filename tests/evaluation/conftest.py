"""Figures that stay open to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib import pyplot


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that were drawn, which whoever drew them has closed."""
    drawn: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", drawn.append)
        yield drawn
    for figure in drawn:
        pyplot.close(figure)
