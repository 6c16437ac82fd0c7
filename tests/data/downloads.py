"""What tests of downloads share: a published file, and short forms of asking for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfm_policy.data.download import fetch_file, part_of
from lfm_policy.data.hub import Patience, dataset_address, find_file
from lfm_policy.flow.errors import LFMError
from tests.helpers.hub import Hub, cut

PATH = "v1.5/lift/ph/low_dim_v15.hdf5"
SIZE = 3_000_000
AT_ONCE = Patience(retries=0)


def content(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def address(hub: Hub, repository: str = "robomimic/robomimic_datasets", revision: str = "main") -> str:
    return dataset_address(repository, hub.path, hub.endpoint, revision)


def download(hub: Hub, output: Path, patience: Patience = AT_ONCE, **options: Any) -> None:
    fetch_file(find_file(address(hub), patience), output, patience=patience, **options)


def refused(action: Callable[[], Any]) -> str:
    """The one line of the error."""
    with pytest.raises(LFMError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(output: Path) -> set[str]:
    return {path.name for path in output.parent.iterdir()}


def begun(hub: Hub, output: Path, size: int = 1_000_000) -> None:
    """A download that was cut off after `size` bytes."""
    hub.store = [cut(size)]
    refused(lambda: download(hub, output))
    assert part_of(output).read_bytes() == hub.content[:size]
    hub.asked.clear()
