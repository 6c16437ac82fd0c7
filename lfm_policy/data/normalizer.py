"""Per-dimension affine normalisation, with the statistics it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lfm_policy.flow.errors import LFMError

Mode = Literal["minmax", "standard", "identity"]

# Below this range a dimension is constant: dividing by it would blow noise up (Diffusion Policy's threshold).
CONSTANT_RANGE = 1e-4


class Statistics:
    """Minimum, maximum, mean and standard deviation per dimension, gathered in one pass (float64)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.min = torch.full((dim,), torch.inf, dtype=torch.float64)
        self.max = torch.full((dim,), -torch.inf, dtype=torch.float64)
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._squares = torch.zeros(dim, dtype=torch.float64)

    @classmethod
    def of(cls, frames: Iterable[Tensor]) -> Statistics:
        """The statistics of an iterable of (..., D) tensors; LFMError when it is empty."""
        statistics: Statistics | None = None
        for block in frames:
            statistics = statistics or cls(block.shape[-1])
            statistics.update(block)
        if statistics is None or not statistics.count:
            raise LFMError("normaliser: there is nothing to fit; the dataset has no frames")
        return statistics

    def update(self, frames: Tensor) -> None:
        """Take in a (..., D) block (Chan's pairwise update of mean and variance)."""
        block = frames.reshape(-1, frames.shape[-1]).to(torch.float64)
        if not len(block):
            return
        self.min = torch.minimum(self.min, block.amin(0))
        self.max = torch.maximum(self.max, block.amax(0))
        mean, total = block.mean(0), self.count + len(block)
        shift = mean - self.mean
        self._squares += ((block - mean) ** 2).sum(0) + shift**2 * self.count * len(block) / total
        self.mean = self.mean + shift * len(block) / total
        self.count = total

    @property
    def std(self) -> Tensor:
        """Population standard deviation (D,)."""
        return (self._squares / max(self.count, 1)).sqrt()


class Normalizer(nn.Module):
    """The affine map x_n = (x - offset) / scale of each dimension, kept as buffers and so in the checkpoint.

    minmax maps the data's range to [-1, 1], standard to mean 0 and deviation 1, identity leaves it.
    Whatever the mode, a dimension whose range is below 1e-4 is constant: scale 1, offset the constant, and
    `unnormalize` returns exactly the constant. Without fitting it is the identity on `dim` dimensions.

    >>> normalizer = Normalizer.fit(torch.tensor([[0.0, 5.0], [4.0, 5.0]]), "minmax")
    >>> normalizer.normalize(torch.tensor([1.0, 5.0]))
    tensor([-0.5000,  0.0000])
    """

    offset: Tensor
    scale: Tensor
    varying: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("varying", torch.ones(dim, dtype=torch.bool))

    @classmethod
    def fit(cls, data: Tensor, mode: Mode | Sequence[Mode]) -> Normalizer:
        """Fit to data (..., D); `mode` is one for all dimensions or one each. LFMError on NaN or no data."""
        statistics = Statistics.of([data])
        return cls.from_statistics(statistics.min, statistics.max, statistics.mean, statistics.std, mode)

    @classmethod
    def from_statistics(
        cls, low: Tensor, high: Tensor, mean: Tensor, std: Tensor, mode: Mode | Sequence[Mode]
    ) -> Normalizer:
        """Fit from per-dimension statistics (D,) of one pass over the data."""
        finite = low.isfinite() & high.isfinite() & mean.isfinite() & std.isfinite()
        if not finite.all():
            wrong = (~finite).nonzero().flatten().tolist()
            raise LFMError(f"normaliser: NaN or infinity in dimensions {wrong}; `lfm inspect FILE` says where")
        normalizer = cls(len(low))
        varying = (high - low) >= CONSTANT_RANGE
        for index, name in enumerate(_modes(mode, len(low))):
            if not varying[index]:
                normalizer.offset[index] = mean[index]
            elif name == "minmax":
                normalizer.offset[index] = (high[index] + low[index]) / 2
                normalizer.scale[index] = (high[index] - low[index]) / 2
            elif name == "standard":
                normalizer.offset[index] = mean[index]
                normalizer.scale[index] = std[index]
        normalizer.varying.copy_(varying)
        return normalizer

    def normalize(self, x: Tensor) -> Tensor:
        """(..., D) in its own units to (..., D) normalised."""
        return (x - self.offset) / self.scale

    def unnormalize(self, x: Tensor) -> Tensor:
        """(..., D) normalised to its own units; constant dimensions come out as their constant."""
        return torch.where(self.varying, x * self.scale + self.offset, self.offset)

    def log_abs_det(self) -> Tensor:
        """log |d x_n / d x| of one vector, in nats, over the dimensions that vary: a scalar."""
        return -self.scale[self.varying].log().sum()

    def extra_repr(self) -> str:
        return f"dim={len(self.scale)}, constant={int((~self.varying).sum())}"


def _modes(mode: Mode | Sequence[Mode], dim: int) -> list[str]:
    modes: list[str] = [mode] * dim if isinstance(mode, str) else list(mode)
    for name in modes:
        if name not in get_args(Mode):
            raise LFMError(f"normaliser: {name!r} is unknown; choose one of {', '.join(get_args(Mode))}")
    if len(modes) != dim:
        raise LFMError(f"normaliser: {len(modes)} modes for {dim} dimensions; give one, or one each")
    return modes
