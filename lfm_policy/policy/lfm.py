"""The Local Flow Matching policy: observation-conditioned sub-flows of action chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.data.normalizer import Normalizer
from lfm_policy.flow import LFMError, LocalFlow, Schedule, Solver
from lfm_policy.flow.solver import MethodName
from lfm_policy.nets import UNet1d
from lfm_policy.policy.base import Policy
from lfm_policy.policy.spec import PolicySpec


@dataclass(frozen=True)
class UNetConfig:
    """Widths and sizes of one sub-flow's `UNet1d`."""

    channels: tuple[int, ...] = (128, 248, 480)
    kernel_size: int = 5
    n_groups: int = 8
    embedding_dim: int = 256


@dataclass(frozen=True)
class ChainConfig:
    """The chain of sub-flows: N = `n_subflows` with γ_n = ρ^(n-1) c, each with its own network or one for all."""

    n_subflows: int = 4
    c: float = 0.15
    rho: float = 1.25
    share_weights: bool = False


@dataclass(frozen=True)
class LFMConfig:
    """All that builds an `LFMPolicy` from its spec; stored in the checkpoint."""

    network: UNetConfig = field(default_factory=UNetConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    sampler: Solver = field(default_factory=Solver)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LFMConfig:
        """Inverse of `to_dict`."""
        network = {**values["network"], "channels": tuple(values["network"]["channels"])}
        return cls(UNetConfig(**network), ChainConfig(**values["chain"]), Solver(**values["sampler"]))


class LFMPolicy(Policy):
    """A conditional local flow over action chunks (Tp, Da) given To observations.

    Networks see normalised values; `predict_action` and `log_prob` speak the environment's units.
    The condition is the normalised observation history, flattened to (B, To · D). `make_field` gives each
    sub-flow another velocity field than `config.network`; such a policy is saved by who gave it.
    """

    def __init__(
        self,
        spec: PolicySpec,
        config: LFMConfig | None = None,
        seed: int = 0,
        make_field: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__(spec)
        self.config = config or LFMConfig()
        check_horizon(spec.horizon, self.config.network)
        self.observation_normalizer = Normalizer(spec.observation_dim)
        self.action_normalizer = Normalizer(spec.action_space.dim)
        self.flow = _build_flow(spec, self.config, seed, make_field)

    @torch.no_grad()
    def predict_action(
        self, obs: Mapping[str, Tensor | np.ndarray], generator: torch.Generator | None = None
    ) -> Tensor:
        """Chunks (B, Tp, Da) in the environment's units, sampled for histories {key: (B, To, D)}."""
        cond = self.condition(obs)
        shape = (len(cond), self.spec.horizon, self.spec.action_space.dim)
        chunk = self.flow.sample(shape, cond, self.config.sampler, generator)
        return self.action_normalizer.unnormalize(chunk)

    @torch.no_grad()
    def log_prob(
        self,
        obs: Mapping[str, Tensor | np.ndarray],
        actions: Tensor | np.ndarray,
        solver: Solver | None = None,
        n_probes: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(actions | obs) (B,) in nats of the environment's units, for chunks (B, Tp, Da).

        Exact trace with `n_probes` = 0, else Hutchinson's estimate. Constant action dimensions count in
        normalised units, since they have no density in their own.
        """
        cond = self.condition(obs)
        chunk = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
        expected = (len(cond), self.spec.horizon, self.spec.action_space.dim)
        if chunk.shape != expected:
            raise LFMError(f"actions: shape {tuple(chunk.shape)}, expected {expected}")
        normalized = self.action_normalizer.normalize(chunk)
        jacobian = self.spec.horizon * self.action_normalizer.log_abs_det()
        return self.flow.log_prob(normalized, cond, solver, n_probes, generator) + jacobian

    def condition(self, obs: Mapping[str, Tensor | np.ndarray]) -> Tensor:
        """What the networks are conditioned on: (B, To · D)."""
        return self.observation_normalizer.normalize(self.joined(obs)).flatten(1)

    @property
    def nfe(self) -> int:
        """Evaluations of a sub-flow's network for one chunk."""
        return _evaluations(self.config.sampler) * self.flow.n_subflows

    @cached_property
    def multiply_adds(self) -> int:
        """Multiply-add operations for one chunk, counted on one evaluation of each sub-flow."""
        x = torch.zeros(1, self.spec.horizon, self.spec.action_space.dim, device=self.device)
        cond = torch.zeros(1, self.spec.n_obs_steps * self.spec.observation_dim, device=self.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.flow.pull(x, cond, Solver("euler", steps=1))
        return counter.get_total_flops() // 2 * _evaluations(self.config.sampler)

    def with_sampler(self, method: MethodName | None = None, steps: int | None = None) -> LFMPolicy:
        """This policy, sampled by another fixed-step method or number of steps per sub-flow."""
        sampler = self.config.sampler
        changed = replace(sampler, method=method or sampler.method, steps=sampler.steps if steps is None else steps)
        self.config = replace(self.config, sampler=changed)
        self.__dict__.pop("multiply_adds", None)
        return self


def check_horizon(horizon: int, network: UNetConfig) -> None:
    """Raise LFMError where the UNet cannot halve Tp often enough."""
    stride = 2 ** (len(network.channels) - 1)
    if horizon % stride:
        raise LFMError(
            f"policy.horizon: {horizon} is not divisible by {stride}, the stride of {len(network.channels)} "
            f"network.channels; use {max(1, round(horizon / stride)) * stride}, or fewer channels"
        )


def _build_flow(
    spec: PolicySpec, config: LFMConfig, seed: int, make_field: Callable[[], nn.Module] | None
) -> LocalFlow:
    chain, count = config.chain, 1 if config.chain.share_weights else config.chain.n_subflows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know only the global generator
        try:
            fields = [make_field() if make_field else _unet(spec, config.network) for _ in range(count)]
        except ValueError as error:  # nets know no LFMError
            raise LFMError(str(error)) from error
    return LocalFlow(fields, Schedule.geometric(chain.n_subflows, chain.c, chain.rho))


def _unet(spec: PolicySpec, network: UNetConfig) -> UNet1d:
    return UNet1d(spec.action_space.dim, spec.n_obs_steps * spec.observation_dim, **asdict(network))


def _evaluations(sampler: Solver) -> int:
    if sampler.evaluations is None:
        raise LFMError(f"sampler.method: {sampler.method} has no fixed number of evaluations; use midpoint")
    return sampler.evaluations
