"""The progress bar of long commands."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar:24}| {elapsed} < {remaining}{postfix}"


def progress_bar(description: str, total: int, shown: bool = True) -> tqdm[Any]:
    """A bar on stderr with the time left; in a log, where every state is a line, one in half a minute."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=description, bar_format=FORMAT, mininterval=interval, disable=not shown)
