"""A policy as a folder: `policy.json` (what it is) and `model.safetensors` (EMA weights and normalisers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lfm_policy.flow import LFMError
from lfm_policy.policy.base import Policy
from lfm_policy.policy.lfm import LFMConfig, LFMPolicy
from lfm_policy.policy.spec import PolicySpec

FORMAT, TYPE = 1, "lfm"
POLICY_FILE, MODEL_FILE = "policy.json", "model.safetensors"
CHECKPOINTS = "checkpoints"


def save_policy(policy: LFMPolicy, folder: Path, **facts: Any) -> None:
    """Write a policy into an existing folder; `facts` (versions, dataset, step …) go into policy.json."""
    tensors = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE)
    description = {
        "format": FORMAT,
        "type": TYPE,
        "spec": policy.spec.to_dict(),
        "model": policy.config.to_dict(),
        **facts,
    }
    (folder / POLICY_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_policy(path: str | Path) -> Policy:
    """Load a policy for evaluation from a checkpoint folder, or from the newest one of a run's folder.

    Needs neither the dataset nor a simulator. Raises LFMError where the folder is no complete checkpoint.
    """
    folder = find_checkpoint(path)
    description = read_description(folder)
    try:
        spec, config = PolicySpec.from_dict(description["spec"]), LFMConfig.from_dict(description["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise LFMError(f"{folder / POLICY_FILE}: describes no policy ({error}); use another checkpoint") from error
    trained, total = description.get("trained_subflows"), config.chain.n_subflows
    if trained is not None and trained < total:
        raise LFMError(
            f"{folder}: only {trained} of {total} sub-flows are trained; continue with `lfm train --resume true`"
        )
    policy = LFMPolicy(spec, config)
    load_weights(policy, folder)
    return policy.eval()


def load_weights(policy: LFMPolicy, folder: Path) -> None:
    """Fill a policy with a checkpoint's weights and normalisers."""
    try:
        policy.load_state_dict(load_file(folder / MODEL_FILE))
    except (SafetensorError, OSError, RuntimeError) as error:
        lines = str(error).splitlines()  # torch heads its list of misfits with a line that names none
        reason = lines[min(1, len(lines) - 1)].strip().rstrip(".")
        raise LFMError(f"{folder / MODEL_FILE}: cannot be read ({reason}); use another checkpoint") from error


def read_description(folder: Path) -> dict[str, Any]:
    """Contents of a checkpoint's policy.json."""
    file = folder / POLICY_FILE
    try:
        description = json.loads(file.read_text())
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor even text
        raise LFMError(f"{file}: cannot be read ({error}); use another checkpoint") from error
    if not isinstance(description, dict) or description.get("type") != TYPE:
        raise LFMError(f"{file}: describes no policy of type {TYPE}; use another checkpoint")
    if description.get("format") != FORMAT:
        raise LFMError(
            f"{file}: format {description.get('format')} is not {FORMAT}, which this version reads; train anew"
        )
    return description


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that `path` is, or the newest one in the run's folder that it is."""
    path = Path(path)
    if (path / POLICY_FILE).is_file():
        return path
    complete = [file.parent for file in (path / CHECKPOINTS).glob(f"step_*/{POLICY_FILE}")]
    if complete:
        return max(complete, key=lambda folder: int(folder.name.removeprefix("step_")))
    what = "holds no checkpoint" if path.exists() else "does not exist"
    raise LFMError(f"{path}: {what}; give a checkpoint folder (with {POLICY_FILE}) or a run's output_dir")
