"""A policy as a folder: `policy.json` (what it is) and `model.safetensors` (EMA weights and normalisers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lfm_policy.data import saved
from lfm_policy.flow import LFMError
from lfm_policy.policy.base import ChunkPolicy, FittedPolicy
from lfm_policy.policy.behavior_cloning import MIPPolicy, RegressionPolicy
from lfm_policy.policy.diffusion import DiffusionPolicy
from lfm_policy.policy.distilled import DistilledPolicy
from lfm_policy.policy.lfm import LFMPolicy
from lfm_policy.policy.spec import PolicySpec

FORMAT = 1
POLICIES: dict[str, type[ChunkPolicy]] = {
    policy.kind: policy for policy in (LFMPolicy, DiffusionPolicy, RegressionPolicy, MIPPolicy, DistilledPolicy)
}
"""Policies by the type that their checkpoints name."""
POLICY_FILE, MODEL_FILE = "policy.json", "model.safetensors"


def save_policy(policy: ChunkPolicy, folder: Path, **facts: Any) -> None:
    """Write a policy into an existing folder; `facts` (versions, dataset, step …) go into policy.json."""
    tensors = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE)
    description = {
        "format": FORMAT,
        "type": policy.kind,
        "spec": policy.spec.to_dict(),
        "model": policy.describe(),
        **facts,
    }
    (folder / POLICY_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_policy(path: str | Path) -> ChunkPolicy:
    """Load a policy for evaluation from a checkpoint folder, or from the newest one of a run's folder.

    Needs neither the dataset nor a simulator. Raises LFMError where the folder is no complete checkpoint.
    """
    folder = find_checkpoint(path)
    description = read_description(folder)
    try:
        spec = PolicySpec.from_dict(description["spec"])
        policy = POLICIES[description["type"]].from_description(spec, description["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise LFMError(f"{folder / POLICY_FILE}: describes no policy ({error}); use another checkpoint") from error
    if isinstance(policy, FittedPolicy):
        _check_trained(folder, description.get("trained_subflows"), policy.flow.n_subflows)
    load_weights(policy, folder)
    return policy.eval()


def _check_trained(folder: Path, trained: int | None, total: int) -> None:
    """LFMError where the checkpoint is of a chain in the middle of its training."""
    if trained is not None and trained < total:
        raise LFMError(
            f"{folder}: only {trained} of {total} sub-flows are trained; continue with `lfm train --resume true`"
        )


def load_weights(policy: ChunkPolicy, folder: Path) -> None:
    """Fill a policy with a checkpoint's weights and normalisers."""
    saved.load_modules(folder / MODEL_FILE, {"": policy})


def read_description(folder: Path) -> dict[str, Any]:
    """Contents of a checkpoint's policy.json."""
    return saved.read_description(folder / POLICY_FILE, POLICIES, FORMAT, f"policy of type {', '.join(POLICIES)}")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that `path` is, or the newest one in the run's folder that it is."""
    return saved.find_folder(Path(path), POLICY_FILE)
