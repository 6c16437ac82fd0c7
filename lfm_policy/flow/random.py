"""Named random generators: every draw of the package comes from one of them."""

from __future__ import annotations

import hashlib

import torch


def named_seed(seed: int, purpose: str, *index: int) -> int:
    """Seed of the draw number `index` made for `purpose` in the run `seed`; 63 bits."""
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def named_generator(
    seed: int, purpose: str, *index: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Generator of the draw number `index` made for `purpose` in the run `seed`.

    A pure function of its arguments: a run that resumes at step k draws what it would have drawn
    without the break, and no generator state has to be stored.
    """
    return torch.Generator(device=device).manual_seed(named_seed(seed, purpose, *index))
