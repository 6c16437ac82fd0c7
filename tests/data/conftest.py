"""A clean file of seven demonstrations, and its parts to plant faults in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.recordings import Episode, episode, write_robomimic_file


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
