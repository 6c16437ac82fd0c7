"""The 2-D UNet over images: diffusers' `UNet2DModel` with a velocity field's signature and a float time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from lfm_policy.nets.embedding import TimeEmbedding


class UNet2d(nn.Module):
    """Velocity v(x, t) of images x (B, C, H, W), unconditional.

    `channels` are the widths of the levels from fine to coarse. An image is first folded into squares of
    `patch_size` x `patch_size` pixels, which become channels: with 2, a quarter of the arithmetic. H and W must be
    divisible by `stride` = patch_size · 2^(levels - 1). The time embedding (sinusoids and two learned layers) shifts
    every block, and scales it too with `scale_shift`.

    Args:
        shape: (C, H, W).
        channels: widths of the levels.
        layers_per_block: residual blocks per level; one more on the way up.
        attention: levels with self-attention, counted from 0, the finest; the middle attends where any does.
        head_dim: channels of an attention head.
        n_groups: of group norms; divides all widths.
        patch_size: see above.
        resample: `conv`, or `resnet`: by residual blocks.
        scale_shift: see above.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (64, 128, 128),
        layers_per_block: int = 2,
        attention: Sequence[int] = (),
        head_dim: int = 32,
        n_groups: int = 8,
        patch_size: int = 1,
        resample: Literal["conv", "resnet"] = "conv",
        scale_shift: bool = False,
    ) -> None:
        super().__init__()
        _check(channels, attention, head_dim, n_groups, patch_size, resample)
        if layers_per_block < 1:
            raise ValueError(f"network.layers_per_block: {layers_per_block} must be 1 or more")
        c, h, w = shape
        self.stride = patch_size * 2 ** (len(channels) - 1)
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"data.size: sides of {h} x {w} are not divisible by {self.stride}, which {len(channels)} levels of "
                f"network.channels and network.patch_size {patch_size} ask for; change one of them"
            )
        self.fold = nn.PixelUnshuffle(patch_size)
        self.unfold = nn.PixelShuffle(patch_size)
        attends = [level in attention for level in range(len(channels))]
        self.unet = UNet2DModel(
            sample_size=(h // patch_size, w // patch_size),
            in_channels=c * patch_size**2,
            out_channels=c * patch_size**2,
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=head_dim,
            add_attention=any(attends),
            norm_num_groups=n_groups,
            downsample_type=resample,
            upsample_type=resample,
            resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        )
        # diffusers' own sinusoids are made for steps 0 … 1000 and computed in float32 whatever the network is in
        self.unet.time_proj = TimeEmbedding(channels[0])
        self.train()

    def train(self, mode: bool = True) -> UNet2d:
        """Set the mode, in which nothing differs: diffusers would only copy tensors, which changes their rounding."""
        super().train(mode)
        self.unet.eval()
        return self

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in [0, 1], cond None -> velocity (B, C, H, W)."""
        if cond is not None:
            raise ValueError("network: this UNet takes no condition")
        return self.unfold(self.unet(self.fold(x), t, return_dict=False)[0])


def _check(
    channels: Sequence[int], attention: Sequence[int], head_dim: int, n_groups: int, patch_size: int, resample: str
) -> None:
    if not channels or n_groups < 1 or any(c < 1 or c % n_groups for c in channels):
        raise ValueError(f"network.channels: {list(channels)} must be multiples of network.n_groups {n_groups}")
    for level in attention:
        if not 0 <= level < len(channels):
            raise ValueError(f"network.attention: level {level} is not one of the {len(channels)} of network.channels")
        if head_dim < 1 or channels[level] % head_dim:
            raise ValueError(f"network.head_dim: {head_dim} does not divide the {channels[level]} channels of a level")
    if attention and channels[-1] % head_dim:
        raise ValueError(f"network.head_dim: {head_dim} does not divide the {channels[-1]} channels of the middle")
    if patch_size < 1:
        raise ValueError(f"network.patch_size: {patch_size} must be 1 or more")
    if resample not in ("conv", "resnet"):
        raise ValueError(f"network.resample: '{resample}' is neither conv nor resnet")
