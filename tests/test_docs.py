"""The documentation's programs run as they stand, in a fresh process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def programs(name: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def test_ones_own_environment_is_recorded_checked_and_learned_from(tmp_path: Path) -> None:
    program = next(text for text in programs("own_data.md") if "gymnasium.make" in text)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rate = float(done.stdout.splitlines()[-1].split()[0])
    # a car that does not swing never gets there
    assert rate > 0.5, done.stdout
