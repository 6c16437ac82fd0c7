"""What robomimic publishes: its simulated tasks' datasets for robosuite 1.5, by task, kind and file.

Follows DATASET_REGISTRY and HF_REPO_ID of robomimic 0.5.0 (robomimic/__init__.py at commit d309eae). Files of images
are not published (their entries have no address there), and real-robot data lie elsewhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lfm_policy.flow.errors import LFMError

# the tags v0.4.0 and v0.5.0 name amandlek/robomimic instead, with the same paths in it
REPOSITORY = "robomimic/robomimic_datasets"

LOW_DIM = ("low_dim", "demo")
LOW_DIM_BY_REWARD = ("low_dim_sparse", "low_dim_dense", "demo")  # the machine's data have two kinds of reward

# task to kind to files: ph proficient human, mh multi-human, mg machine-generated, paired good and bad
PUBLISHED: dict[str, dict[str, tuple[str, ...]]] = {
    "lift": {"ph": LOW_DIM, "mh": LOW_DIM, "mg": LOW_DIM_BY_REWARD},
    "can": {"ph": LOW_DIM, "mh": LOW_DIM, "mg": LOW_DIM_BY_REWARD, "paired": LOW_DIM},
    "square": {"ph": LOW_DIM, "mh": LOW_DIM},
    "transport": {"ph": LOW_DIM, "mh": LOW_DIM},
    "tool_hang": {"ph": LOW_DIM},
}


def published_path(task: str, kind: str, file: str) -> str:
    """The path of a dataset in the repository; LFMError for what is not published, with the nearest that is."""
    kinds = PUBLISHED[_known("task", task, PUBLISHED, "robomimic")]
    files = kinds[_known("kind", kind, kinds, task)]
    return f"v1.5/{task}/{kind}/{_known('file', file, files, f'{task} {kind}')}_v15.hdf5"


def _known(option: str, name: str, names: Iterable[str], whose: str) -> str:
    if name in names:
        return name
    nearest = difflib.get_close_matches(name.lower(), names, n=1)
    meant = f"did you mean {nearest[0]}? " if nearest else ""
    raise LFMError(f"--{option} {name}: not published; {meant}{whose} has {', '.join(names)}")
