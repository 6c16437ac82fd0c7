"""Checkpoints of a run: complete folders only, the newest one kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lfm_policy.data.saved import CHECKPOINTS, checkpoints
from lfm_policy.flow import LFMError

STATE_FILE = "training_state.pt"


def save_checkpoint(run: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write `run/checkpoints/step_<step>` under a temporary name, rename it, then remove older ones.

    `write` fills the folder with the model; `state` is what resumes its training.

    A crash at any moment leaves the old checkpoint, the new one, or both; never half of one. One of this
    step that is there already is complete and the same, and is left alone. LFMError where it cannot be written.
    """
    folder = run / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    temporary, final = folder / f"tmp-{os.getpid()}", folder / f"step_{step}"
    if final.exists():
        return final
    for left in folder.glob("tmp-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir()
        torch.save(state, temporary / STATE_FILE)
        write(temporary)
        temporary.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        told = " ".join(str(error).split())
        raise LFMError(f"{final}: cannot be written ({told}); make room, and resume the run") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in checkpoints(run).values():
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
