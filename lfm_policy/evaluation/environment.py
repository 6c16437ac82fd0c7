"""Gymnasium environments as policies see them: made by id, observed by key, compared with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from lfm_policy.data.action_space import ActionSpace, major_minor
from lfm_policy.data.plugins import register_environments
from lfm_policy.flow.errors import LFMError

STATE_KEY = "state"


class Spec(Protocol):
    """The part of a policy's specification that an environment has to fit."""

    @property
    def observation(self) -> tuple[tuple[str, int], ...]: ...

    @property
    def action_space(self) -> ActionSpace: ...

    @property
    def env_version(self) -> str: ...


def make_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None, **overrides: Any) -> gymnasium.Env:
    """`gymnasium.make(env_id, **env_kwargs, **overrides)`, overrides first in rank.

    LFMError if the id is unknown, an argument is refused, or the simulator is missing.
    """
    register_environments()
    arguments = {"disable_env_checker": True, **(env_kwargs or {}), **overrides}
    try:
        return gymnasium.make(env_id, **arguments)
    except gymnasium.error.UnregisteredEnv as error:
        raise LFMError(f"environment {env_id}: {_line(error)}; registered: {_registered(env_id)}") from error
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise LFMError(f"environment {env_id}: {_line(error)}") from error


def observe(observation: Any) -> dict[str, np.ndarray]:
    """An observation by key, copied, whatever the space: a plain vector has the key "state"."""
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    return {STATE_KEY: np.array(observation)}


def observation_dims(env: gymnasium.Env) -> dict[str, int]:
    """Length of every observation vector by key; LFMError for a space of anything but vectors."""
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {STATE_KEY: space}
    dims = {}
    for key, part in parts.items():
        if not isinstance(part, spaces.Box) or len(part.shape) != 1:
            raise LFMError(f"environment {env_name(env)}: observation {key} is {part}; only vectors are understood")
        dims[key] = part.shape[0]
    return dims


def action_dim(env: gymnasium.Env) -> int:
    """Length of an action; LFMError if actions are no vectors."""
    space = env.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise LFMError(f"environment {env_name(env)}: actions are {space}; only vectors are understood")
    return space.shape[0]


def env_name(env: gymnasium.Env) -> str:
    """The id an environment was made by."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def horizon(env: gymnasium.Env) -> int | None:
    """Steps after which gymnasium ends an episode, None without a limit."""
    return env.spec.max_episode_steps if env.spec is not None else None


def is_success(info: Mapping[str, Any]) -> bool:
    """The task's own test, as `step` reports it."""
    return bool(info.get("is_success", info.get("success", False)))


def check_fit(spec: Spec, env: gymnasium.Env, origin: str) -> None:
    """LFMError naming every field in which an environment differs from that of the policy of `origin`.

    An environment that tells neither `action_convention` nor `env_args` is compared by its spaces.
    """
    differences = _observation_differences(spec, env) + _action_differences(spec, env)
    differences += _version_differences(spec, env)
    if differences:
        raise LFMError(
            f"{origin}: does not fit environment {env_name(env)}: {'; '.join(differences)}; "
            "roll out in the environment it was trained for, or train on data of this one"
        )


def _observation_differences(spec: Spec, env: gymnasium.Env) -> list[str]:
    dims = observation_dims(env)
    listed = ", ".join(f"{key} {dim}" for key, dim in dims.items())
    return [
        f"observation {key}: checkpoint {dim}, environment {dims.get(key, f'nothing (it has {listed})')}"
        for key, dim in spec.observation
        if dims.get(key) != dim
    ]


def _action_differences(spec: Spec, env: gymnasium.Env) -> list[str]:
    dim = action_dim(env)
    convention = getattr(env.unwrapped, "action_convention", None)
    if convention is not None:
        differences = spec.action_space.differences(ActionSpace.from_convention(convention, dim))
        return [f"action {difference}" for difference in differences]
    if spec.action_space.dim == dim:
        return []
    return [f"action dim: checkpoint {spec.action_space.dim}, environment {dim}"]


def _version_differences(spec: Spec, env: gymnasium.Env) -> list[str]:
    version = (getattr(env.unwrapped, "env_args", None) or {}).get("env_version")
    if not version or not spec.env_version or major_minor(version) == major_minor(spec.env_version):
        return []
    return [f"simulator version: checkpoint {spec.env_version}, environment {version}"]


def _registered(env_id: str) -> str:
    namespace = env_id.rpartition("/")[0]
    known = sorted(name for name in gymnasium.registry if name.startswith(namespace + "/"))
    known = known or sorted(name for name in gymnasium.registry if "/" in name)
    return ", ".join(known[:12]) or "none with a namespace"


def _line(error: BaseException) -> str:
    told = " ".join(str(error).split()).removesuffix(".")
    # gymnasium appends all keyword arguments, which fills the screen
    return told.partition(" was raised from the environment creator")[0]
