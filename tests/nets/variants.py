"""Every network in every setting, with inputs: what the laws are tested over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lfm_policy.nets import MLP, UNet1d
from lfm_policy.nets.mlp import ACTIVATIONS
from lfm_policy.nets.unet2d import UNet2d

COND = 5


@dataclass(frozen=True)
class Variant:
    """A network's constructor, its sample's shape and its condition's length (0: none)."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cond_dim: int

    def build(self) -> nn.Module:
        """The network, with weights that depend on nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return self.make()

    def inputs(
        self, count: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x, t and cond of `count` samples."""
        g = torch.Generator().manual_seed(4)
        x = torch.randn(count, *self.shape, generator=g, dtype=dtype)
        t = torch.rand(count, generator=g, dtype=dtype)
        cond = torch.randn(count, COND, generator=g, dtype=dtype)
        return x.to(device), t.to(device), cond.to(device) if self.cond_dim else None


def _variants() -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    for cond in (0, COND):
        suffix = ", cond" if cond else ""
        for name in ACTIVATIONS:
            make = lambda name=name, cond=cond: MLP(3, 16, 2, name, cond)  # noqa: E731
            found[f"MLP, {name}{suffix}"] = Variant(make, (3,), cond)
        make = lambda cond=cond: MLP(3, 16, 2, cond_dim=cond, n_frequencies=2, knots=(-0.1, 1.0))  # noqa: E731
        found[f"MLP, frequencies{suffix}"] = Variant(make, (3,), cond)
        for levels in (1, 2, 3):
            channels = (16, 24, 32)[:levels]
            make = lambda c=channels, cond=cond: UNet1d(2, cond, c, kernel_size=3, embedding_dim=16)  # noqa: E731
            found[f"UNet1d, {levels} level{'s' * (levels > 1)}{suffix}"] = Variant(make, (8, 2), cond)
    images: dict[str, tuple[int, dict[str, Any]]] = {
        "UNet2d": (1, {}),
        "UNet2d, patches": (1, {"patch_size": 2}),
        "UNet2d, colour, attention": (3, {"attention": (1,), "head_dim": 8, "layers_per_block": 2}),
        "UNet2d, ADM's blocks": (3, {"resample": "resnet", "scale_shift": True}),
    }
    for name, (colours, options) in images.items():
        shape, options = (colours, 4, 4), {"layers_per_block": 1, "n_groups": 4, **options}
        make = lambda shape=shape, options=options: UNet2d(shape, (8, 16), **options)  # noqa: E731
        found[name] = Variant(make, shape, 0)
    return found


NETWORKS = _variants()
