"""What a run tells: JSON lines and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from lfm_policy.flow import LFMError


class RunLog:
    """Writes each entry to `metrics.jsonl` and TensorBoard; entries past a resumed step are dropped first."""

    def __init__(self, run: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        file = run / "metrics.jsonl"
        kept = [line for line in _lines(file) if json.loads(line)["step"] <= step]
        file.write_text("".join(line + "\n" for line in kept))
        self._file: IO[str] = file.open("a")
        self._tensorboard = SummaryWriter(run / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, step: int, **values: Any) -> None:
        """One entry at a global step; numbers also go to TensorBoard."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise LFMError(f"{self._file.name}: cannot be written ({error.strerror}); make room, and resume") from error
        for name, value in values.items():
            if isinstance(value, int | float) and name != "subflow":
                prefix = f"subflow_{values['subflow']}/" if "subflow" in values else ""
                self._tensorboard.add_scalar(prefix + name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._tensorboard.close()


def _lines(file: Path) -> list[str]:
    """Whole lines of a log; a line cut short by a crash is left out."""
    if not file.is_file():
        return []
    text = file.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
