"""The interface of every policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lfm_policy.flow import LFMError
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
        """Begin an episode; its noise is a function of `seed`."""
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
