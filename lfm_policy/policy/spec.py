"""What a policy reads and writes, and for which environment: enough to refuse one that does not fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lfm_policy.data.action_space import ActionSpace
from lfm_policy.flow import LFMError


@dataclass(frozen=True)
class PolicySpec:
    """Keys, shapes, time steps, action convention and environment of a policy.

    observation: (key, dimension) in the order in which keys are joined. With To = `n_obs_steps`
    observations up to step t, the chunk of Tp = `horizon` actions begins at step t - To + 1, and the
    Ta = `n_action_steps` actions [To - 1, To - 1 + Ta) are executed before the next prediction.
    env_observation: where the keys come from in an environment that has other names for them, and success_key:
    what it calls success (see `evaluation.environment.Described`).
    """

    observation: tuple[tuple[str, int], ...]
    action_space: ActionSpace
    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8
    env_id: str = ""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_version: str = ""
    env_observation: dict[str, str] = field(default_factory=dict)
    success_key: str = ""

    def __post_init__(self) -> None:
        room = self.horizon - self.n_obs_steps + 1
        if self.n_obs_steps < 1 or not 1 <= self.n_action_steps <= room:
            raise LFMError(
                f"policy.n_action_steps: {self.n_action_steps} must lie between 1 and horizon - n_obs_steps + 1 = "
                f"{self.horizon} - {self.n_obs_steps} + 1 = {room}"
            )

    @property
    def observation_dim(self) -> int:
        """Length of one observation, all keys joined."""
        return sum(dim for _, dim in self.observation)

    @property
    def executed(self) -> slice:
        """The part of a chunk that is executed."""
        return slice(self.n_obs_steps - 1, self.n_obs_steps - 1 + self.n_action_steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self) | {"action_space": self.action_space.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PolicySpec:
        """Inverse of `to_dict`."""
        observation = tuple((key, dim) for key, dim in values["observation"])
        action_space = ActionSpace.from_dict(values["action_space"])
        return cls(**{**values, "observation": observation, "action_space": action_space})
