"""One thread for each process of the suite: two that wait for each other beside other tests are slower than one."""

from __future__ import annotations

import os
import signal

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
torch.set_num_threads(1)
# a suite in a shell's background ignores Ctrl-C, and so would the programs whose Ctrl-C is tested
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest file first: started last, it would be waited for by every other worker."""
    items.sort(key=lambda item: item.path.name != "test_packaging.py")
