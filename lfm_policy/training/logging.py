"""What a run tells: JSON lines and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from lfm_policy.flow import LFMError

METRICS = "metrics.jsonl"


class RunLog:
    """Writes each entry to `metrics.jsonl` and TensorBoard; entries past a resumed step are dropped first."""

    def __init__(self, run: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        file = run / METRICS
        kept = [entry for entry in entries(run) if entry["step"] <= step]
        file.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
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


def entries(run: Path) -> list[dict[str, Any]]:
    """What a run has logged; a line cut short by a crash is left out."""
    file = run / METRICS
    if not file.is_file():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
