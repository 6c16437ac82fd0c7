"""Checkpoints of a run: complete folders only, the newest one kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lfm_policy.data.saved import CHECKPOINTS
from lfm_policy.flow import LFMError

STATE_FILE = "training_state.pt"


def save_checkpoint(run: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write `run/checkpoints/step_<step>` under a temporary name, rename it, then remove older ones.

    `write` fills the folder with the model; `state` is what resumes its training.

    A crash at any moment leaves the old checkpoint, the new one, or both; never half of one. One of this
    step that is there already is complete and the same, and is left alone.
    """
    folder = run / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    temporary, final = folder / f"tmp-{os.getpid()}", folder / f"step_{step}"
    if final.exists():
        return final
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        torch.save(state, temporary / STATE_FILE)
        write(temporary)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in folder.glob("step_*"):
        if other != final:
            shutil.rmtree(other)
    return final


def load_training_state(folder: Path) -> dict[str, Any]:
    """State of a run, read with weights_only=True."""
    file = folder / STATE_FILE
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise LFMError(f"{file}: cannot be read ({cause}); start anew with --overwrite true") from error
