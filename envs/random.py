"""Named random generators: what draws beside an environment draws from a stream of its own."""

from __future__ import annotations

import numpy as np

# what a scripted expert draws
EXPERT = "expert"


def named_generator(seed: int, purpose: str) -> np.random.Generator:
    """Generator of the draws made for `purpose` in the episode of `seed`.

    `default_rng(seed)` is the one that gymnasium gives to the environment of that seed: what is drawn from it a
    second time follows from where things are.
    """
    return np.random.default_rng([seed, *purpose.encode()])
