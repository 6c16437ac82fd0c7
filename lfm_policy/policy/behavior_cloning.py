"""Behaviour cloning on the same network: regression, and the two-step minimal iterative policy (MIP)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lfm_policy.flow import LFMError, Regression, Schedule
from lfm_policy.flow.matching import MarginalsName
from lfm_policy.flow.random import normal, uniform
from lfm_policy.policy.base import FittedPolicy
from lfm_policy.policy.network import UNetConfig, build_networks
from lfm_policy.policy.spec import PolicySpec

NOISE_END = 1.0  # the clock's end where a network knows nothing of the chunk yet


class ChunkRegression:
    """Objective of plain behaviour cloning: the chunk itself, from nothing but the condition."""

    marginals: MarginalsName = "exact"

    def draw(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Regression:
        """Regression problem on data x (B, *shape)."""
        return Regression(torch.zeros_like(x), x.new_full((len(x),), NOISE_END), x)

    def check_condition(self, cond: Tensor | None) -> None:
        """Conditions are welcome."""


@dataclass(frozen=True)
class MIPSettings:
    """The second step of the minimal iterative policy.

    Args:
        t_star: how much of the second step's input is the chunk, the rest being noise; strictly between 0 and 1.
        second_weight: how much the second step's squared errors count beside the first's. The authors' published
            code has (t* / (1 - t*))², 81 here, with which the first step learns late.
    """

    t_star: float = 0.9
    second_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.t_star < 1:
            raise LFMError(f"mip.t_star: {self.t_star} must lie strictly between 0 and 1")
        if not 0 < self.second_weight < math.inf:
            raise LFMError(f"mip.second_weight: {self.second_weight} must be above 0 and finite")


class TwoStepRegression:
    """Objective of MIP (arXiv 2512.01809): the chunk from nothing, and the chunk from t* x + (1 - t*) z.

    Every sample trains one of the two steps, drawn evenly, so that a batch costs what it costs elsewhere. This is the
    paper's form; the authors' published code leaves out the factor t* by default.
    """

    marginals: MarginalsName = "exact"

    def __init__(self, settings: MIPSettings) -> None:
        self.settings = settings

    def draw(self, x: Tensor, n: int, schedule: Schedule, generator: torch.Generator) -> Regression:
        """Regression problem on data x (B, *shape)."""
        t_star = self.settings.t_star
        second = uniform(len(x), x, generator) < 0.5
        noisy = t_star * x + (1 - t_star) * normal(x.shape, x, generator)
        given = torch.where(second.reshape(-1, *[1] * (x.dim() - 1)), noisy, torch.zeros_like(x))
        # the clock runs from data (0) to noise (1), the authors' the other way
        t = torch.where(second, 1 - t_star, NOISE_END).to(x.dtype)
        weight = torch.where(second, self.settings.second_weight, 1.0).to(x.dtype)
        return Regression(given, t, x, weight)

    def check_condition(self, cond: Tensor | None) -> None:
        """Conditions are welcome."""


@dataclass(frozen=True)
class RegressionConfig:
    """All that builds a `RegressionPolicy` from its spec."""

    network: UNetConfig = field(default_factory=UNetConfig)


class RegressionPolicy(FittedPolicy):
    """Behaviour cloning by least squares: the mean chunk, in one evaluation, without noise."""

    kind: ClassVar[str] = "regression"

    def __init__(self, spec: PolicySpec, config: RegressionConfig | None = None, seed: int = 0) -> None:
        config = config or RegressionConfig()
        super().__init__(spec, build_networks(spec, config.network, Schedule(), 1, seed))
        self.config = config

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """The normalised chunks (B, Tp, Da) that the network regresses to, given cond (B, To · D)."""
        return self.flow.field(1)(cond.new_zeros(shape), cond.new_full(shape[:1], NOISE_END), cond)

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""
        return asdict(self.config)

    @classmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """An untrained policy from its `describe`."""
        return cls(spec, RegressionConfig(UNetConfig.from_dict(values["network"])))


@dataclass(frozen=True)
class MIPConfig:
    """All that builds a `MIPPolicy` from its spec."""

    network: UNetConfig = field(default_factory=UNetConfig)
    mip: MIPSettings = field(default_factory=MIPSettings)


class MIPPolicy(FittedPolicy):
    """The minimal iterative policy (arXiv 2512.01809): a regression, then one denoising of what it said."""

    kind: ClassVar[str] = "mip"

    def __init__(self, spec: PolicySpec, config: MIPConfig | None = None, seed: int = 0) -> None:
        config = config or MIPConfig()
        super().__init__(spec, build_networks(spec, config.network, Schedule(), 1, seed))
        self.config = config

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks (B, Tp, Da) in two steps and without noise, given cond (B, To · D)."""
        network, t_star = self.flow.field(1), self.config.mip.t_star
        first = network(cond.new_zeros(shape), cond.new_full(shape[:1], NOISE_END), cond)
        return network(t_star * first, cond.new_full(shape[:1], 1 - t_star), cond)

    @property
    def evaluations(self) -> int:
        """Two."""
        return 2

    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""
        return asdict(self.config)

    @classmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """An untrained policy from its `describe`."""
        return cls(spec, MIPConfig(UNetConfig.from_dict(values["network"]), MIPSettings(**values["mip"])))
