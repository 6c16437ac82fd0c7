"""One thread for each process of the suite: two that wait for each other beside other tests are slower than one."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
torch.set_num_threads(1)
# a suite in a shell's background ignores Ctrl-C, and so would the programs whose Ctrl-C is tested
signal.signal(signal.SIGINT, signal.default_int_handler)

# the slowest files, slowest first: started last, they would be waited for by every other worker
SLOW = (
    "tests/test_packaging.py",
    "tests/test_end_to_end.py",
    "evaluation/test_ray_executor.py",
    "density/test_estimator.py",
    "sweep/test_sweep.py",
    "training/test_resume.py",
    "cli/test_compare.py",
    "training/test_training.py",
    "conversion/test_robosuite_files.py",
    "integrations/test_robomimic_scripts.py",
    "envs/test_transport_expert.py",
    "training/test_methods.py",
    "evaluation/test_executor.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist keep the order below; it would begin with the files of most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first."""
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(f"{item.path.parent.name}/{item.path.name}", len(SLOW)))


@pytest.fixture(autouse=True, scope="module")
def imported_objects_are_no_garbage() -> Iterator[None]:
    """robosuite collects garbage with every simulator it closes: 0.3 s over all that the suite has imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
