"""The control loop's side of a policy: a history of observations in, one action at a time out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from lfm_policy.flow import LFMError, named_generator
from lfm_policy.policy.spec import PolicySpec

Predict = Callable[[dict[str, Tensor], torch.Generator], Tensor]


class ActionChunker:
    """Predicts a chunk of actions when its queue is empty and hands them out one by one.

    `predict(obs, generator)` maps {key: (1, To, D)} to a chunk (1, Tp, Da). The first observation is
    repeated to fill the history. All noise comes from a generator that `reset(seed)` seeds.
    """

    def __init__(self, predict: Predict, spec: PolicySpec) -> None:
        self.predict, self.spec, self._seed = predict, spec, 0
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Forget the episode; the next one's noise is a function of `seed` (None: one more than the last)."""
        self._seed = self._seed + 1 if seed is None else seed
        self._history: deque[dict[str, np.ndarray]] = deque(maxlen=self.spec.n_obs_steps)
        self._queue: deque[np.ndarray] = deque()
        self._generator = named_generator(self._seed, "act")
        self.n_predictions = 0
        self.chunk_seconds: list[float] = []

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Action (Da,) for an observation {key: (D,)}; raises LFMError naming a key that does not fit."""
        self._history.append(self._checked(obs))
        if not self._queue:
            begin = time.perf_counter()
            chunk = self.predict(self._stacked(), self._generator)[0].cpu().numpy()
            self.chunk_seconds.append(time.perf_counter() - begin)
            self.n_predictions += 1
            self._queue.extend(chunk[self.spec.executed])
        return self._queue.popleft()

    def _stacked(self) -> dict[str, Tensor]:
        missing = self.spec.n_obs_steps - len(self._history)
        frames = [self._history[0]] * missing + list(self._history)
        return {key: torch.as_tensor(np.stack([f[key] for f in frames]))[None] for key, _ in self.spec.observation}

    def _checked(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        checked = {}
        for key, dim in self.spec.observation:
            if key not in obs:
                raise LFMError(f"observation: key '{key}' is missing; there are {', '.join(sorted(obs))}")
            value = np.array(obs[key], dtype=np.float32)  # a copy: environments may reuse their arrays
            if value.shape == () and dim == 1:  # files may hold such a series as (T,), too
                value = value[None]
            if value.shape != (dim,):
                raise LFMError(f"observation: '{key}' has shape {value.shape}, the policy was trained on ({dim},)")
            checked[key] = value
        return checked
