"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(ready: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Until `ready`; AssertionError if the process ends before, or the time does."""
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"{process.args} ended with {process.returncode} before it came so far"
        assert time.monotonic() < end, f"{process.args} has not come so far in {seconds} s"
        time.sleep(0.02)
