"""The interface of every policy, and what those whose networks see normalised values share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.data.normalizer import Normalizer
from lfm_policy.flow import LFMError, LocalFlow, Solver
from lfm_policy.policy.chunker import ActionChunker
from lfm_policy.policy.spec import PolicySpec


class Policy(nn.Module, ABC):
    """Observations in, chunks of actions out, both in the environment's units.

    Subclasses give `predict_action`; `reset` and `act` serve a control loop through an `ActionChunker`.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self._chunker: ActionChunker | None = None

    @abstractmethod
    def predict_action(
        self, obs: Mapping[str, Tensor | np.ndarray], generator: torch.Generator | None = None
    ) -> Tensor:
        """Chunks (B, Tp, Da) for observation histories {key: (B, To, D)}."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Evaluations of a network for one chunk."""

    @property
    @abstractmethod
    def multiply_adds(self) -> int:
        """Multiply-add operations for one chunk."""

    @property
    def chunker(self) -> ActionChunker:
        """The state of the control loop."""
        if self._chunker is None:
            self._chunker = ActionChunker(self.predict_action, self.spec)
        return self._chunker

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def n_predictions(self) -> int:
        """Chunks predicted since `reset`."""
        return self.chunker.n_predictions

    @property
    def chunk_seconds(self) -> list[float]:
        """Wall seconds of each chunk predicted since `reset`."""
        return self.chunker.chunk_seconds

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; its noise is a function of `seed` (None: one more than the last)."""
        self.chunker.reset(seed)

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Next action (Da,) for the newest observation {key: (D,)}."""
        return self.chunker.act(obs)

    def joined(self, obs: Mapping[str, Tensor | np.ndarray]) -> Tensor:
        """Histories {key: (B, To, D)} joined to (B, To, sum D), float32; raises LFMError on a wrong key or shape."""
        parts = []
        for key, dim in self.spec.observation:
            if key not in obs:
                raise LFMError(f"observation: key '{key}' is missing; there are {', '.join(sorted(obs))}")
            value = torch.as_tensor(obs[key], dtype=torch.float32, device=self.device)
            if value.dim() != 3 or value.shape[1:] != (self.spec.n_obs_steps, dim):
                raise LFMError(
                    f"observation: '{key}' has shape {tuple(value.shape)}, expected (B, {self.spec.n_obs_steps}, {dim})"
                )
            parts.append(value)
        return torch.cat(parts, dim=-1)


class ChunkPolicy(Policy):
    """A policy that draws normalised action chunks (Tp, Da) from networks, given normalised observations.

    Subclasses hold the networks and say how chunks are drawn from them. The condition is the normalised observation
    history, flattened to (B, To · D).
    """

    kind: ClassVar[str] = ""  # by which a checkpoint names the class

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__(spec)
        self.observation_normalizer = Normalizer(spec.observation_dim)
        self.action_normalizer = Normalizer(spec.action_space.dim)

    @abstractmethod
    def sample(self, shape: tuple[int, ...], cond: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised chunks of `shape` (B, Tp, Da) given cond (B, To · D)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The settings that `from_description` needs, JSON-able."""

    @classmethod
    @abstractmethod
    def from_description(cls, spec: PolicySpec, values: dict[str, Any]) -> Self:
        """An untrained policy from its `describe`; raises KeyError, TypeError or ValueError where that is none."""

    def set_sampler(
        self, method: str | None = None, steps: int | None = None, temperature: float | None = None
    ) -> Self:
        """Draw its chunks by a method, in a number of steps, at a temperature from now on; LFMError if it cannot.

        What is not given stays. Returns the policy itself.
        """
        raise LFMError(
            f"a policy of type {self.kind} has no sampler to choose; leave solver, solver_steps and temperature out"
        )

    @property
    def sampler(self) -> dict[str, Any] | None:
        """How chunks are drawn, JSON-able; None where there is no choice."""
        return None

    @torch.no_grad()
    def predict_action(
        self, obs: Mapping[str, Tensor | np.ndarray], generator: torch.Generator | None = None
    ) -> Tensor:
        """Chunks (B, Tp, Da) in the environment's units, sampled for histories {key: (B, To, D)}."""
        cond = self.condition(obs)
        chunk = self.sample((len(cond), self.spec.horizon, self.spec.action_space.dim), cond, generator)
        return self.action_normalizer.unnormalize(chunk)

    def condition(self, obs: Mapping[str, Tensor | np.ndarray]) -> Tensor:
        """What the networks are conditioned on: (B, To · D)."""
        return self.observation_normalizer.normalize(self.joined(obs)).flatten(1)

    @torch.no_grad()
    def count_multiply_adds(self, evaluate: Callable[[Tensor, Tensor], Any]) -> int:
        """Multiply-add operations of `evaluate` on one chunk (1, Tp, Da) and its condition (1, To · D)."""
        x = torch.zeros(1, self.spec.horizon, self.spec.action_space.dim, device=self.device)
        cond = torch.zeros(1, self.spec.n_obs_steps * self.spec.observation_dim, device=self.device)
        with FlopCounterMode(display=False) as counter:
            evaluate(x, cond)
        return counter.get_total_flops() // 2


class FittedPolicy(ChunkPolicy):
    """A chunk policy whose networks lie in `flow`, which a `Fitter` trains on demonstrations."""

    def __init__(self, spec: PolicySpec, flow: LocalFlow) -> None:
        super().__init__(spec)
        self.flow = flow

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Evaluations of each network of `flow` for one chunk."""

    @property
    def nfe(self) -> int:
        """Evaluations of one network for one chunk, over the whole sampler."""
        return self.evaluations * self.flow.n_subflows

    @property
    def multiply_adds(self) -> int:
        """Multiply-add operations for one chunk, counted on one evaluation of each sub-flow."""
        once = Solver("euler", steps=1)
        return self.count_multiply_adds(lambda x, cond: self.flow.pull(x, cond, once)) * self.evaluations
