"""Reading what was saved as a folder of JSON and safetensors: a policy or a density, whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lfm_policy.flow.errors import LFMError

CHECKPOINTS = "checkpoints"
STEP = re.compile(r"step_(\d+)")


def read_description(file: Path, kinds: str | Collection[str], number: int, what: str) -> dict[str, Any]:
    """Contents of a JSON file whose `type` is (one of) `kinds` and `format` is `number`; `what` it is, for errors."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    try:
        description = json.loads(file.read_text())
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor even text
        raise LFMError(f"{file}: cannot be read ({error}); use another checkpoint") from error
    if not isinstance(description, dict) or description.get("type") not in kinds:
        raise LFMError(f"{file}: describes no {what}; use another checkpoint")
    if description.get("format") != number:
        raise LFMError(
            f"{file}: format {description.get('format')} is not {number}, which this version reads; train anew"
        )
    return description


def load_modules(file: Path, modules: dict[str, nn.Module]) -> None:
    """Fill modules from a safetensors file; each takes the tensors whose names begin with its prefix."""
    try:
        tensors = load_file(file)
        for prefix, module in modules.items():
            module.load_state_dict(_beginning(tensors, prefix))
    except (SafetensorError, OSError, RuntimeError) as error:
        lines = str(error).splitlines()  # torch heads its list of misfits with a line that names none
        reason = lines[min(1, len(lines) - 1)].strip().rstrip(".")
        raise LFMError(f"{file}: cannot be read ({reason}); use another checkpoint") from error


def find_folder(path: Path, name: str) -> Path:
    """The folder with a file `name` that `path` is, or the newest checkpoint in the run's folder that it is."""
    if (path / name).is_file():
        return path
    complete = {step: folder for step, folder in checkpoints(path).items() if (folder / name).is_file()}
    if complete:
        return complete[max(complete)]
    what = "holds no checkpoint" if path.exists() else "does not exist"
    raise LFMError(f"{path}: {what}; give a checkpoint folder (with {name}) or a run's output_dir")


def checkpoints(run: Path) -> dict[int, Path]:
    """A run's checkpoints by their step; what else is in their folder is the user's own."""
    folders = (run / CHECKPOINTS).glob("step_*")
    return {int(found[1]): folder for folder in folders if (found := STEP.fullmatch(folder.name)) and folder.is_dir()}


def _beginning(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
