"""The progress bar of long commands."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar:24}| {rate_fmt}, {elapsed} < {remaining}{postfix}"


class Bar(tqdm):
    """A tqdm bar that ends its line whenever it was shown: tqdm itself does so only after `delay`."""

    def display(self, *args: Any, **kwargs: Any) -> bool | None:
        self.delay = 0
        return super().display(*args, **kwargs)


# tqdm's own lock holds a semaphore, which a worker that is ended leaves to the parent, with a warning at its end;
# bars of one process are all that there are
Bar.set_lock(threading.RLock())


def progress_bar(
    description: str, total: int | None, shown: bool = True, done: int = 0, unit: str = "episode"
) -> tqdm[Any]:
    """A bar on stderr with rate and time left; in a log, where every state is a line, one in half a minute.

    It appears after a moment, so that what fails at once is told in one line.
    """
    interval, delay = (0.2, 0.5) if sys.stderr.isatty() else (30, 10)
    return Bar(
        total=total,
        initial=done,
        desc=description,
        unit=unit,
        unit_scale=unit == "B",  # 12.3M of bytes
        bar_format=FORMAT,
        mininterval=interval,
        delay=delay,
        disable=not shown,
    )
