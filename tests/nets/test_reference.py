"""The UNet against Diffusion Policy's forward pass, written down in functions over the same weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lfm_policy.nets import UNet1d
from lfm_policy.nets.unet1d import Mish

CHANNELS, GROUPS, KERNEL, EMBEDDING = (16, 24, 32), 8, 5, 16


class Weights:
    """Weights below a name: w("first.0") is the pair of weight and bias of a layer."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __truediv__(self, name: str) -> Weights:
        return Weights(self.state, f"{self.prefix}{name}.")

    def __call__(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{self.prefix}{name}.weight"], self.state[f"{self.prefix}{name}.bias"]


def conv_block(x: Tensor, w: Weights) -> Tensor:
    return F.mish(F.group_norm(F.conv1d(x, *w("0"), padding=KERNEL // 2), GROUPS, *w("1")))


def residual_block(x: Tensor, cond: Tensor, w: Weights) -> Tensor:
    modulation = F.linear(F.mish(cond), *w("film.1"))
    channels = modulation.shape[1] // 2
    scale, bias = modulation[:, :channels, None], modulation[:, channels:, None]
    out = conv_block(scale * conv_block(x, w / "first") + bias, w / "second")
    return out + (x if x.shape[1] == channels else F.conv1d(x, *w("skip")))


def level(x: Tensor, cond: Tensor, w: Weights) -> Tensor:
    return residual_block(residual_block(x, cond, w / "first"), cond, w / "second")


def reference(x: Tensor, t: Tensor, cond: Tensor | None, w: Weights) -> Tensor:
    """Down with a skip a level, the middle, up from the coarsest; the finest skip is not used."""
    half = EMBEDDING // 2
    angles = 100 * t[:, None] * torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half, dtype=t.dtype))
    e = F.linear(F.mish(F.linear(torch.cat([angles.sin(), angles.cos()], 1), *w("time.1"))), *w("time.3"))
    c = e if cond is None else torch.cat([e, cond], 1)
    fine = level(x.mT, c, w / "down" / "0")
    middle = level(F.conv1d(fine, *w("down.0.resample"), stride=2, padding=1), c, w / "down" / "1")
    coarse = level(F.conv1d(middle, *w("down.1.resample"), stride=2, padding=1), c, w / "down" / "2")
    h = residual_block(residual_block(coarse, c, w / "middle" / "0"), c, w / "middle" / "1")
    h = level(torch.cat([h, coarse], 1), c, w / "up" / "0")
    h = F.conv_transpose1d(h, *w("up.0.resample"), stride=2, padding=1)
    h = level(torch.cat([h, middle], 1), c, w / "up" / "1")
    h = F.conv_transpose1d(h, *w("up.1.resample"), stride=2, padding=1)
    return F.conv1d(conv_block(h, w / "out" / "0"), *w("out.1")).mT


@pytest.mark.parametrize("cond_dim", [0, 5])
def test_unet_is_diffusion_policys(cond_dim: int) -> None:
    """In float64; the embedding's frequencies are kept in float32, hence 1e-5."""
    network = UNet1d(3, cond_dim, CHANNELS, KERNEL, GROUPS, EMBEDDING).double()
    g = torch.Generator().manual_seed(0)
    x, t, cond = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((4, 8, 3), (4,), (4, cond_dim)))
    args = x, t.abs(), cond if cond_dim else None
    want = reference(*args, Weights(network.state_dict()))
    torch.testing.assert_close(network(*args), want, atol=1e-5, rtol=0)
    assert want.abs().max() > 0.1


def test_mish_is_torchs_own() -> None:
    x = torch.linspace(-30, 30, 1001, dtype=torch.float64, requires_grad=True)
    ours, theirs = Mish()(x), torch.nn.functional.mish(x)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)
