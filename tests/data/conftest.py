"""A clean file of seven demonstrations, its parts to plant faults in, and a hub that publishes a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.downloads import PATH, content
from tests.data.recordings import Episode, episode, write_robomimic_file
from tests.helpers.hub import Hub, serving


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def episodes(rng: np.random.Generator) -> dict[str, Episode]:
    """Seven clean episodes, numbered neither from 0 nor in order nor without a gap."""
    return {f"demo_{number}": episode(rng, 30 + number) for number in (10, 9, 2, 1, 11, 25, 3)}


@pytest.fixture
def dataset(tmp_path: Path, episodes: dict[str, Episode]) -> Path:
    return write_robomimic_file(tmp_path / "lift.hdf5", episodes)


@pytest.fixture
def clean() -> dict[str, Episode]:
    """Twelve clean episodes of about one length."""
    rng = np.random.default_rng(7)
    return {f"demo_{index}": episode(rng, 60 + int(rng.integers(8))) for index in range(12)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local server of a hub that publishes one file."""
    monkeypatch.setenv("no_proxy", "*")
    with serving(PATH, content(0)) as hub:
        yield hub


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a download goes."""
    return tmp_path / "lift.hdf5"
