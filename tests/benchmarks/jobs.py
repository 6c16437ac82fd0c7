"""A job that leaves a trace, in a module of its own: the processes that run it import no tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def square(number: int, log: str) -> dict[str, Any]:
    """The square of a number, whose computation is noted in a file."""
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise ValueError(f"{number} is negative")
    return {"square": number**2, "pair": [number, number]}
