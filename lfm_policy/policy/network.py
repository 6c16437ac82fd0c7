"""The network of every policy: a 1-D UNet over action chunks, conditioned on observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lfm_policy.flow import LFMError, LocalFlow, Schedule
from lfm_policy.nets import UNet1d
from lfm_policy.policy.spec import PolicySpec


@dataclass(frozen=True)
class UNetConfig:
    """Widths and sizes of one network, a `UNet1d`."""

    channels: tuple[int, ...] = (128, 248, 480)
    kernel_size: int = 5
    n_groups: int = 8
    embedding_dim: int = 256

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetConfig:
        """Inverse of `asdict`, from JSON."""
        return cls(**{**values, "channels": tuple(values["channels"])})


def check_horizon(horizon: int, network: UNetConfig) -> None:
    """Raise LFMError where the UNet cannot halve Tp often enough."""
    stride = 2 ** (len(network.channels) - 1)
    if horizon % stride:
        raise LFMError(
            f"policy.horizon: {horizon} is not divisible by {stride}, the stride of {len(network.channels)} "
            f"network.channels; use {max(1, round(horizon / stride)) * stride}, or fewer channels"
        )


def build_networks(
    spec: PolicySpec,
    network: UNetConfig,
    schedule: Schedule,
    count: int,
    seed: int,
    make_field: Callable[[], nn.Module] | None = None,
) -> LocalFlow:
    """`count` untrained networks on the stretches of a schedule, their weights a function of `seed`."""
    return LocalFlow(build_fields(spec, network, count, seed, make_field), schedule)


def build_fields(
    spec: PolicySpec,
    network: UNetConfig,
    count: int,
    seed: int,
    make_field: Callable[[], nn.Module] | None = None,
) -> list[nn.Module]:
    """`count` untrained networks, UNets if not given, their weights a function of `seed`."""
    check_horizon(spec.horizon, network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know only the global generator
        try:
            return [make_field() if make_field else _unet(spec, network) for _ in range(count)]
        except ValueError as error:  # nets know no LFMError
            raise LFMError(str(error)) from error


def _unet(spec: PolicySpec, network: UNetConfig) -> UNet1d:
    return UNet1d(spec.action_space.dim, spec.n_obs_steps * spec.observation_dim, **asdict(network))
