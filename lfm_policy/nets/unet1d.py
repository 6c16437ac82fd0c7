"""The FiLM-conditioned 1-D UNet over the steps of an action chunk.

The architecture of Diffusion Policy's CNN (arXiv 2303.04137, appendix on network architecture), with a
float time; its parameter counts are those of Table A.3's global network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_policy.nets.embedding import TimeEmbedding

SHORT = 8  # steps; of longer chunks torch's convolution is as fast


class Mish(nn.Module):
    """x tanh(log(1 + e^x)), from operations whose gradients vectorise: those of torch's own are taken one by one."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not torch.is_grad_enabled():
            return nn.functional.mish(x)
        return x * torch.tanh(nn.functional.softplus(x))


class Conv1d(nn.Conv1d):
    """torch's convolution along the chunk; on a CPU, of single or short chunks by the product of windows and weights.

    torch multiplies the weights by a chunk's few columns, which takes longer there than its rows by the weights: for a
    single chunk, and for the gradients at a UNet's coarser levels (`results/convolution.json`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, in, T) -> (B, out, T')."""
        if input.device.type != "cpu" or (len(input) > 1 and input.shape[2] > SHORT):
            return super().forward(input)
        assert isinstance(self.padding, tuple)
        padded = nn.functional.pad(input, 2 * self.padding).transpose(1, 2)
        windows = _windows(padded, self.kernel_size[0], self.stride[0])
        rows = nn.functional.linear(windows.flatten(2), self.weight.flatten(1), self.bias)
        return rows.transpose(1, 2)


def _windows(x: Tensor, size: int, stride: int) -> Tensor:
    """x (B, T, C) -> (B, T', C, size)."""
    if not torch.is_grad_enabled():
        return x.unfold(1, size, stride)
    # `unfold` is faster, but its gradient has no batching rule, which exact divergences need
    last = x.shape[1] - size + 1
    return torch.stack([x[:, k : last + k : stride] for k in range(size)], dim=3)


class ConvBlock(nn.Sequential):
    """Convolution along the chunk, group norm, Mish; (B, in, T) -> (B, out, T)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, n_groups: int) -> None:
        super().__init__(
            Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, out_channels),
            Mish(),
        )


class FiLMResidualBlock(nn.Module):
    """Two convolution blocks whose middle is scaled and shifted per channel by the condition."""

    def __init__(self, in_channels: int, out_channels: int, cond_dim: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, kernel_size, n_groups)
        self.second = ConvBlock(out_channels, out_channels, kernel_size, n_groups)
        self.film = nn.Sequential(Mish(), nn.Linear(cond_dim, 2 * out_channels))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, in, T), cond (B, cond_dim) -> (B, out, T)."""
        scale, shift = self.film(cond)[:, :, None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class UNetLevel(nn.Module):
    """Two residual blocks and a change of resolution (or none)."""

    def __init__(self, first: FiLMResidualBlock, second: FiLMResidualBlock, resample: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.resample = first, second, resample

    def features(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, in, T), cond (B, cond_dim) -> (B, out, T), before the change of resolution."""
        return self.second(self.first(x, cond), cond)


class UNet1d(nn.Module):
    """Velocity v(x, t, cond) of action chunks x (B, Tp, Da) given observations cond (B, C).

    `channels` are the widths of the levels from fine to coarse; Tp must be divisible by
    `stride` = 2^(levels - 1). The time embedding and the observations modulate every block (FiLM).
    """

    def __init__(
        self,
        action_dim: int,
        cond_dim: int,
        channels: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        n_groups: int = 8,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if not channels or any(c < 1 or c % n_groups for c in channels):
            raise ValueError(f"network.channels: {list(channels)} must be multiples of network.n_groups {n_groups}")
        if kernel_size % 2 == 0:
            raise ValueError(f"network.kernel_size: {kernel_size} must be odd")
        self.stride = 2 ** (len(channels) - 1)
        self.time = nn.Sequential(
            TimeEmbedding(embedding_dim),
            nn.Linear(embedding_dim, 4 * embedding_dim),
            Mish(),
            nn.Linear(4 * embedding_dim, embedding_dim),
        )

        def block(a: int, b: int) -> FiLMResidualBlock:
            return FiLMResidualBlock(a, b, embedding_dim + cond_dim, kernel_size, n_groups)

        widths = [action_dim, *channels]
        down: list[UNetLevel] = []
        for level, (a, b) in enumerate(zip(widths, channels, strict=False)):
            last = level == len(channels) - 1
            resample = nn.Identity() if last else Conv1d(b, b, 3, stride=2, padding=1)
            down.append(UNetLevel(block(a, b), block(b, b), resample))
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([block(channels[-1], channels[-1]) for _ in range(2)])
        self.up = nn.ModuleList(
            UNetLevel(block(2 * b, a), block(a, a), nn.ConvTranspose1d(a, a, 4, stride=2, padding=1))
            for a, b in reversed(list(itertools.pairwise(channels)))
        )
        self.out = nn.Sequential(
            ConvBlock(channels[0], channels[0], kernel_size, n_groups), Conv1d(channels[0], action_dim, 1)
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, Tp, Da), t (B,) in [0, 1], cond (B, C) or None -> velocity (B, Tp, Da)."""
        if x.shape[1] % self.stride:
            raise ValueError(f"policy.horizon: {x.shape[1]} steps are not divisible by {self.stride}")
        embedding = self.time(t)
        modulation = embedding if cond is None else torch.cat([embedding, cond], dim=-1)
        h = x.transpose(1, 2)  # (B, Da, Tp): channels first
        skips = []
        for level in self.down:
            assert isinstance(level, UNetLevel)
            h = level.features(h, modulation)
            skips.append(h)
            h = level.resample(h)
        for block in self.middle:
            h = block(h, modulation)
        for level in self.up:
            assert isinstance(level, UNetLevel)
            h = level.resample(level.features(torch.cat([h, skips.pop()], dim=1), modulation))
        return self.out(h).transpose(1, 2)
