"""The Local Flow Matching policy: observation-conditioned sub-flows of action chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from lfm_policy.flow import FIXED_STEP, LFMError, Schedule, Solver
from lfm_policy.policy.base import FittedPolicy
from lfm_policy.policy.network import UNetConfig, build_networks
from lfm_policy.policy.sampler import Sampler, initial_noise
from lfm_policy.policy.spec import PolicySpec


@dataclass(frozen=True)
class ChainConfig:
    """The chain of sub-flows: N = `n_subflows` with γ_n = ρ^(n-1) c, each with its own network or one for all."""

    n_subflows: int = 4
    c: float = 0.15
    rho: float = 1.25
    share_weights: bool = False

    @property
    def schedule(self) -> Schedule:
        """Of its step sizes."""
        return Schedule.geometric(self.n_subflows, self.c, self.rho)


@dataclass(frozen=True)
class LFMConfig:
    """All that builds an `LFMPolicy` from its spec; stored in the checkpoint."""

    network: UNetConfig = field(default_factory=UNetConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    sampler: Sampler = field(default_factory=Sampler)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LFMConfig:
        """Inverse of `to_dict`."""
        network = UNetConfig.from_dict(values["network"])
        return cls(network, ChainConfig(**values["chain"]), Sampler(**values["sampler"]))


class LFMPolicy(FittedPolicy):
    """A conditional local flow over action chunks (Tp, Da) given To observations.

    Networks see normalised values; `predict_action` and `log_prob` speak the environment's units. N = 1 is plain flow
    matching. `make_field` gives each sub-flow another velocity field than `config.network`; such a policy is saved by
    who gave it.
    """

    kind: ClassVar[str] = "lfm"

    def __init__(
        self,
        spec: PolicySpec,
        config: LFMConfig | None = None,
        seed: int = 0,
        make_field: Callable[[], nn.Module] | None = None,
    ) -> None:
        config = config or LFMConfig()
        chain = config.chain
        count = 1 if chain.share_weights else chain.n_subflows
        super().__init__(spec, build_networks(spec, config.network, chain.schedule, count, seed, make_field))
        self.config = config

    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks of `shape` (B, Tp, Da) pulled from fresh noise, given cond (B, To · D)."""
        noise = initial_noise(shape, cond, generator, self.config.sampler.temperature)
        return self.flow.pull(noise, cond, self.config.sampler)

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

    @property
    def evaluations(self) -> int:
        """Evaluations of each sub-flow's network for one chunk."""
        sampler = self.config.sampler
        if sampler.evaluations is None:
            raise LFMError(f"sampler.method: {sampler.method} has no fixed number of evaluations; use midpoint")
        return sampler.evaluations

    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""
        return self.config.to_dict()

    @classmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """An untrained policy from its `describe`."""
        return cls(spec, LFMConfig.from_dict(values))

    @property
    def sampler(self) -> dict[str, Any]:
        """Solver and temperature, JSON-able."""
        return asdict(self.config.sampler)

    def set_sampler(
        self, method: str | None = None, steps: int | None = None, temperature: float | None = None
    ) -> Self:
        """Draw its chunks by another fixed-step method, number of steps per sub-flow, or temperature; returns it."""
        if method is not None and method not in FIXED_STEP:
            raise LFMError(f"solver: {method} is no fixed-step method of a flow; choose from {', '.join(FIXED_STEP)}")
        given: dict[str, Any] = {"method": method, "steps": steps, "temperature": temperature}
        changed = {name: value for name, value in given.items() if value is not None}
        self.config = replace(self.config, sampler=replace(self.config.sampler, **changed))
        return self
