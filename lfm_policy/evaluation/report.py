"""Which policy a number belongs to, and which episodes that policy has seen before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_policy.evaluation.environment import without_module
from lfm_policy.provenance import without_cwd


def checkpoint_identity(folder: Path, policy: Any) -> dict[str, Any]:
    """Which policy this was: folder, training step and how many there are, dataset, sampler and spec."""
    from lfm_policy.policy.serialization import read_description

    description = read_description(folder)
    return {
        "path": without_cwd(str(folder)),
        "type": description.get("type"),
        "step": description.get("step"),
        "total_steps": description.get("total_steps"),
        "dataset": description.get("dataset"),
        "sampler": getattr(policy, "sampler", None),
        "spec": policy.spec.to_dict(),
    }


def unfinished(description: Mapping[str, Any]) -> str:
    """`step 600 of 6000` of a checkpoint in the middle of its training, "" of one at its end or that does not tell."""
    step, total = description.get("step"), description.get("total_steps")
    return f"step {step} of {total}" if step and total and step < total else ""


def seen_seeds(description: Mapping[str, Any], env_id: str, seeds: range) -> list[tuple[int, int]]:
    """First and last of the `seeds` on which demonstrations of a checkpoint's data were recorded in `env_id`.

    Rollouts on them start where a demonstration did: they tell nothing of other starts. Data that tell no seeds, human
    recordings for one, have none; an environment that data do not name is taken for theirs.
    """
    own = (description.get("spec") or {}).get("env_id") or env_id
    if without_module(own) != without_module(env_id):
        return []
    told = (description.get("dataset") or {}).get("seed_ranges") or []
    both = [common(range(first, last + 1), seeds) for first, last in told]
    return [(seen[0], seen[-1]) for seen in both if seen]


def common(first: range, second: range) -> range:
    """What two ranges of seeds have in common."""
    return range(max(first.start, second.start), min(first.stop, second.stop))
