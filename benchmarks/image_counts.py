"""Parameters, operations and bytes of image networks, counted on tensors without memory."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.image.model import UNet2dConfig
from lfm_policy.nets.unet2d import UNet2d

FINEST_ATTENTION = 16  # pixels: the coarsest maps of DDPM's networks that attend, and the finest of these


def parameters(shape: Sequence[int], config: UNet2dConfig) -> int:
    """Weights of one network."""
    return sum(weight.numel() for weight in _network(shape, config, "meta").parameters())


def operations(shape: Sequence[int], config: UNet2dConfig) -> tuple[int, int]:
    """Operations (a multiply-add is two) of an evaluation, and of an evaluation with its backward, of one image."""
    network, x, t = _problem(shape, config, "meta", 1)
    with fused_attention(), FlopCounterMode(display=False) as counter:
        loss = network(x, t).square().mean()
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


def saved_bytes(shape: Sequence[int], config: UNet2dConfig, autocast: bool) -> tuple[int, int]:
    """Bytes that are kept for the backward: per image, and for any batch (bfloat16 copies of weights)."""
    two, three = (_saved(shape, config, autocast, count) for count in (2, 3))
    return three - two, 3 * two - 2 * three


def evaluation_bytes(shape: Sequence[int], config: UNet2dConfig) -> int:
    """Most bytes that an evaluation without gradients holds at a time, per image, in float32."""
    peaks = []
    for count in (2, 3):
        network, x, t = _problem(shape, config, "meta", count)
        with torch.no_grad(), fused_attention(), LiveBytes() as live:
            network(x, t)
        peaks.append(live.peak)
    return peaks[1] - peaks[0]


def nearest(shape: Sequence[int], config: UNet2dConfig, wanted: float) -> tuple[int, UNet2dConfig]:
    """Of the networks of these widths: how many were counted, and the one whose weights are nearest to `wanted`.

    1 to 3 residual blocks per level, both ways of resampling, time that shifts or also scales, attention at sides of
    16 and at any of the coarser ones.
    """
    sides = [shape[1] // 2**level for level in range(len(config.channels))]
    coarser = [level for level, side in enumerate(sides) if side < FINEST_ATTENTION]
    subsets = [c for k in range(len(coarser) + 1) for c in itertools.combinations(coarser, k)]
    attentions = [(sides.index(FINEST_ATTENTION), *subset) for subset in subsets]
    found = [
        replace(config, layers_per_block=layers, attention=attention, resample=resample, scale_shift=scale)
        for layers in (1, 2, 3)
        for attention in attentions
        for resample in ("conv", "resnet")
        for scale in (False, True)
    ]
    return len(found), min(found, key=lambda other: abs(parameters(shape, other) - wanted))


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Let attention be the fused kernel that accelerators have: the matrix of weights is never kept.

    Tensors without memory would otherwise take the unfused path, and a CPU's kernel is not counted at all.
    """

    def attention(q: Tensor, k: Tensor, v: Tensor, *unused: Any, **options: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    with mock.patch.object(nn.functional, "scaled_dot_product_attention", attention):
        yield


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of results that are alive; `peak` is the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, size: int) -> None:
        self.live -= size


def _network(shape: Sequence[int], config: UNet2dConfig, device: str) -> UNet2d:
    with torch.device(device):
        return UNet2d(shape, **asdict(config))


def _problem(shape: Sequence[int], config: UNet2dConfig, device: str, count: int) -> tuple[UNet2d, Tensor, Tensor]:
    return _network(shape, config, device), torch.empty(count, *shape, device=device), torch.empty(count, device=device)


def _saved(shape: Sequence[int], config: UNet2dConfig, autocast: bool, count: int) -> int:
    """Bytes that a forward keeps beside weights; storages that several tensors share count once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    # pretended CUDA tensors, since what is kept in which precision is CUDA's own choice
    with FakeTensorMode(), fused_attention():
        network, x, t = _problem(shape, config, "cuda", count)
        own = {weight.untyped_storage()._cdata for weight in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _cuda_autocast(autocast):
            loss = network(x, t).square().mean()
        del loss
        return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


@contextlib.contextmanager
def _cuda_autocast(wanted: bool) -> Iterator[None]:
    """CUDA's autocast to bfloat16 where there is no CUDA: `torch.autocast` would switch itself off."""
    torch.set_autocast_enabled("cuda", wanted)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
