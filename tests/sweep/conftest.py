"""Demonstrations that small sweeps share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lfm_policy.evaluation.collect import record_demonstrations
from lfm_policy.evaluation.environment import EnvSpec
from tests.helpers.point import PLAIN


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.hdf5"
    record_demonstrations(path, EnvSpec(PLAIN, success_key="success"), 6)
    return path
