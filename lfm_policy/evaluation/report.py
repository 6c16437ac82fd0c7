"""Which policy a number belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lfm_policy.provenance import without_cwd


def checkpoint_identity(folder: Path, policy: Any) -> dict[str, Any]:
    """Which policy this was: folder, training step, dataset, sampler and spec."""
    from lfm_policy.policy.serialization import read_description

    description = read_description(folder)
    return {
        "path": without_cwd(str(folder)),
        "type": description.get("type"),
        "step": description.get("step"),
        "dataset": description.get("dataset"),
        "sampler": getattr(policy, "sampler", None),
        "spec": policy.spec.to_dict(),
    }
