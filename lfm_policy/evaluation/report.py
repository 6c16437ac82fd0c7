"""Which policy a number belongs to."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from lfm_policy.provenance import without_cwd


def checkpoint_identity(folder: Path, policy: Any) -> dict[str, Any]:
    """Which policy this was: folder, training step, dataset, sampler and spec."""
    from lfm_policy.policy.serialization import read_description

    description = read_description(folder)
    sampler = getattr(getattr(policy, "config", None), "sampler", None)
    return {
        "path": without_cwd(str(folder)),
        "type": description.get("type"),
        "step": description.get("step"),
        "dataset": description.get("dataset"),
        "sampler": asdict(sampler) if is_dataclass(sampler) and not isinstance(sampler, type) else None,
        "spec": policy.spec.to_dict(),
    }
