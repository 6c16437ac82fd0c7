"""Samples by index: what a flow is fitted to, whether it lies in memory or is read on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lfm_policy.flow.random import named_generator


class Source(Protocol):
    """Samples and their conditions by index (B,) of int64."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples (B, *shape) and conditions (B, C) or None."""
        ...


@dataclass(frozen=True)
class TensorSource:
    """Samples (M, *shape) and conditions (M, C) or None, in memory."""

    samples: Tensor
    conditions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples (B, *shape) and conditions (B, C) or None."""
        return self.samples[index], None if self.conditions is None else self.conditions[index]


@dataclass(frozen=True)
class PushedSource:
    """Samples that earlier sub-flows have pushed on (M, *shape), with the conditions of their origin."""

    samples: Tensor
    origin: Source

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Samples (B, *shape) and conditions (B, C) or None."""
        return self.samples[index], self.origin.batch(index)[1]


def parts(count: int, n_parts: int) -> Iterator[slice]:
    """0 … count-1 in `n_parts` consecutive slices whose sizes differ by one at most; none is empty: fewer may do."""
    n = min(n_parts, count)
    yield from (slice(i * count // n, (i + 1) * count // n) for i in range(n))


def slices(count: int, size: int) -> Iterator[Tensor]:
    """Indices 0 … count-1 in consecutive pieces of at most `size`."""
    yield from torch.arange(count).split(size)


class BatchOrder:
    """Batches of a run: the epochs' random orders laid end to end and cut into pieces of `batch_size`.

    Batch k is a pure function of (count, batch_size, seed, index, k), so a resumed run continues exactly.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *index: int) -> None:
        self.count, self.batch_size = count, batch_size
        self.seed, self.index = seed, index
        self._kept: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Indices (batch_size,) of batch number `step`."""
        first = step * self.batch_size
        epochs = range(first // self.count, (first + self.batch_size - 1) // self.count + 1)
        self._kept = {e: self._kept[e] if e in self._kept else self._order(e) for e in epochs}
        parts = [
            order[max(0, first - epoch * self.count) : first + self.batch_size - epoch * self.count]
            for epoch, order in self._kept.items()
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # an epoch's order is long: it is not copied

    def _order(self, epoch: int) -> Tensor:
        generator = named_generator(self.seed, "order", *self.index, epoch)
        return torch.randperm(self.count, generator=generator)
