"""Named random generators: every draw of the package comes from one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def named_seed(seed: int, purpose: str, *index: int) -> int:
    """Seed of the draw number `index` made for `purpose` in the run `seed`; 63 bits."""
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def named_generator(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator of the draw number `index` made for `purpose` in the run `seed`.

    A pure function of its arguments: a run that resumes at step k draws what it would have drawn
    without the break, and no generator state has to be stored.
    """
    return torch.Generator(device=device).manual_seed(named_seed(seed, purpose, *index))


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, I) noise of `shape`, in the dtype and on the device of `like`.

    Drawn on the generator's device and moved: torch refuses a generator of another device, and a seed
    means the same noise wherever the networks are.
    """
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=_origin(like, generator)).to(like.device)


def uniform(count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniforms (count,) in [0, 1), in the dtype and on the device of `like`."""
    return torch.rand(count, generator=generator, dtype=like.dtype, device=_origin(like, generator)).to(like.device)


def signs(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent signs ±1 of `shape`, in the dtype and on the device of `like`."""
    bits = torch.randint(0, 2, tuple(shape), generator=generator, device=_origin(like, generator))
    return (bits * 2 - 1).to(like)


def permutation(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """A random order (count,) of 0 … count-1, on the device of `like`."""
    return torch.randperm(count, generator=generator, device=generator.device).to(like.device)


def _origin(like: Tensor, generator: torch.Generator | None) -> torch.device:
    return like.device if generator is None else generator.device
