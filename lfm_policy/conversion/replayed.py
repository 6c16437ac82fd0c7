"""Episodes seen again: recorded states are restored in a simulator, which tells observations, rewards and goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import gymnasium
import numpy as np

from lfm_policy.conversion.recording import Array, Episode
from lfm_policy.data.replay import REFUSALS
from lfm_policy.flow.errors import LFMError

METHODS = ("set_states", "observe", "reward", "is_success")
# steps taken before what follows the last state is learned: states may lack velocities, or a gripper's ramp
LEAD = 5
# what fixes an episode beside its states, if the recording tells it
HIDDEN = ("model_file", "initial_joint")


def can_replay(env: gymnasium.Env) -> bool:
    """Whether an environment shows stored states, as `Replayer` asks for it."""
    return all(hasattr(env.unwrapped, method) for method in METHODS)


class Replayer:
    """A simulator that shows the states of episodes; `make` builds it.

    Where it refuses a recorded model (another version's, as a rule), it goes on with its own; `refusal` then
    tells why. `succeeded`: whether the task's test was true at any step of the last episode.
    """

    def __init__(self, make: Callable[[], gymnasium.Env]) -> None:
        self.env = make()
        self.refusal, self.succeeded = "", False

    def __call__(self, name: str, episode: Episode) -> Episode:
        """The episode with observations, rewards and dones of its states, and `actions_abs` where there are goals.

        Observation and goals of step t belong to states[t], reward and done to states[t + 1]; what follows the
        last state is learned by taking the last few actions. LFMError if states cannot be restored.
        """
        if episode.states is None or not len(episode.states):
            raise LFMError(f"{name}: has no states to replay; give --replay false to take observations as they are")
        hidden = {key: episode.attrs[key] for key in HIDDEN if key in episode.attrs}
        if hidden and not self.refusal:
            try:
                return self._seen(episode, hidden)
            except REFUSALS as error:
                self.refusal = " ".join(str(error).split()) or type(error).__name__
        try:
            return self._seen(episode, {})
        except REFUSALS as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise LFMError(f"{name}: its states cannot be restored ({cause}); convert for another --env_id") from error

    def close(self) -> None:
        """Let go of the simulator."""
        self.env.close()

    def _seen(self, episode: Episode, hidden: dict[str, Any]) -> Episode:
        env, inner = self.env, cast(Any, self.env.unwrapped)
        assert episode.states is not None
        observations, rewards, successes, goals = [], [], [], []
        env.reset(options={"state": {"states": episode.states[0], **hidden}})
        for state, action in zip(episode.states, episode.actions, strict=True):
            inner.set_states(state)
            observations.append(inner.observe())
            rewards.append(inner.reward())
            successes.append(inner.is_success())
            if hasattr(inner, "absolute_goals"):
                goals.append(inner.absolute_goals(action))
        lead = min(LEAD, len(episode.states))
        env.reset(options={"state": {"states": episode.states[-lead], **hidden}})
        for action in episode.actions[-lead:]:
            last, reward, _, _, info = env.step(np.asarray(action, dtype=env.action_space.dtype))
        rewards.append(float(reward))
        successes.append(bool(info["is_success"]))
        self.succeeded = any(successes)
        seen = {key: np.stack([row[key] for row in [*observations, last]]) for key in last}
        datasets: dict[str, Array] = dict(episode.datasets) | ({"actions_abs": np.stack(goals)} if goals else {})
        kept = {key: value for key, value in episode.attrs.items() if key != "model_file" or hidden}
        return replace(
            episode,
            observations={key: rows[:-1] for key, rows in seen.items()},
            next_observations={key: rows[1:] for key, rows in seen.items()},
            rewards=np.array(rewards[1:]),
            # robomimic's done_mode 2: every successful state, and the last in any case
            dones=np.array([*successes[1:-1], True], dtype=np.int64),
            datasets=datasets,
            attrs=kept,
        )
