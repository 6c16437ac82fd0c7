"""Widths of networks that have a wanted number of parameters, so that methods are compared at equal size."""

from __future__ import annotations

from lfm_policy.nets import MLP


def parameters(dim: int, width: int, depth: int, n_frequencies: int) -> int:
    """Parameters of one MLP."""
    return sum(weight.numel() for weight in MLP(dim, width, depth, n_frequencies=n_frequencies).parameters())


def width_of(total: int, dim: int, depth: int, n_frequencies: int) -> int:
    """Width at which one MLP is nearest to `total` parameters."""
    guesses = range(8, 4096)
    low, high = 0, len(guesses) - 1
    while low < high:  # parameters grow with the width
        middle = (low + high) // 2
        if parameters(dim, guesses[middle], depth, n_frequencies) < total:
            low = middle + 1
        else:
            high = middle
    near = guesses[max(0, low - 1) : low + 1]
    return min(near, key=lambda width: abs(parameters(dim, width, depth, n_frequencies) - total))
