"""Gymnasium environments as policies see them: made by id, observed by key, compared with a checkpoint."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from lfm_policy.data.action_space import ActionSpace, major_minor
from lfm_policy.data.mapping import select
from lfm_policy.data.plugins import register_environments
from lfm_policy.data.robomimic import env_id_of
from lfm_policy.flow.errors import LFMError

STATE_KEY = "state"
TERMINATED = "terminated"


class Spec(Protocol):
    """The part of a policy's specification that an environment has to fit."""

    @property
    def observation(self) -> tuple[tuple[str, int], ...]: ...

    @property
    def action_space(self) -> ActionSpace: ...

    @property
    def env_version(self) -> str: ...


@dataclass(frozen=True)
class EnvSpec:
    """How to make an environment: its gymnasium id, arguments, and what of it is observed and called success.

    observation, success_key: see `Described`. A blank field says nothing: `over` fills it.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    observation: Mapping[str, str] = field(default_factory=dict)
    success_key: str = ""

    @classmethod
    def of_policy(cls, spec: Any) -> EnvSpec:
        """The environment that a policy was trained for."""
        return cls(spec.env_id, spec.env_kwargs, spec.env_observation, spec.success_key)

    @classmethod
    def of_env_args(cls, env_args: Mapping[str, Any], path: object) -> EnvSpec:
        """The environment of a dataset; LFMError, naming `path`, if it is not registered."""
        env_id = env_id_of(env_args, str(path))
        observation, success_key = env_args.get("observation") or {}, env_args.get("success_key") or ""
        return cls(env_id, env_args.get("env_kwargs") or {}, observation, success_key)

    def over(self, other: EnvSpec) -> EnvSpec:
        """This environment, with what it leaves blank from `other` as far as that is of the same id."""
        if self.env_id and self.env_id != other.env_id:
            return self
        return EnvSpec(
            other.env_id,
            {**other.env_kwargs, **self.env_kwargs},
            self.observation or other.observation,
            self.success_key or other.success_key,
        )

    def make(self, **overrides: Any) -> gymnasium.Env:
        """The environment; see `make_env`."""
        return make_env(self.env_id, self.env_kwargs, self.observation, self.success_key, **overrides)

    def env_args(self, env: gymnasium.Env) -> dict[str, Any]:
        """robomimic's description of `env`, made by `make`, with which this can be read back from a dataset.

        The environment's own `env_args` where it has them, and what of it is observed and called success.
        """
        own = getattr(env.unwrapped, "env_args", None) or self._env_args(env)
        chosen = {"observation": dict(self.observation), "success_key": self.success_key}
        return own | {key: value for key, value in chosen.items() if value}

    def _env_args(self, env: gymnasium.Env) -> dict[str, Any]:
        fps = env.metadata.get("render_fps")
        return {
            "env_name": self.env_id,
            "type": 2,
            "env_version": _version(env),
            "env_kwargs": dict(self.env_kwargs),
            **({"control_freq": int(fps)} if fps else {}),
        }


def make_env(
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    observation: Mapping[str, str] | None = None,
    success_key: str = "",
    **overrides: Any,
) -> gymnasium.Env:
    """`gymnasium.make(env_id, **env_kwargs, **overrides)`, overrides first in rank, as policies see it.

    `observation` and `success_key` are those of `Described`. LFMError if the id is unknown, an argument is
    refused, or the simulator is missing.
    """
    register_environments()
    arguments = {"disable_env_checker": True, **(env_kwargs or {}), **overrides}
    try:
        env = gymnasium.make(env_id, **arguments)
    except gymnasium.error.UnregisteredEnv as error:
        raise LFMError(f"environment {env_id}: {_line(error)}; registered: {_registered(env_id)}") from error
    # whatever simulators raise at arguments that they do not expect
    except Exception as error:
        told = _line(error).removeprefix(f"{env_id}: ")
        if not isinstance(error, gymnasium.error.Error | ImportError | ValueError | RuntimeError):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {told} ({Path(frame.filename).name}, line {frame.lineno})"
        raise LFMError(f"environment {env_id}: {told}") from error
    return Described(env, observation or {}, success_key)


class Described(gymnasium.Wrapper):
    """Any environment, with observations by key and success under the name `is_success`.

    observation: key to what it consists of, as `lfm_policy.data.mapping` reads it; a plain vector has the name
    "state"; {} leaves observations as they are. success_key: entry of `info` that tells success, or "terminated"
    where an episode ends by it; "" takes `is_success` or `success`. `last_observation` and `last_info` are the
    environment's own, for experts.
    """

    def __init__(self, env: gymnasium.Env, observation: Mapping[str, str], success_key: str = "") -> None:
        super().__init__(env)
        self.mapping, self.success_key = dict(observation), success_key
        self.last_observation: Any = None
        self.last_info: dict[str, Any] = {}
        if self.mapping:
            self.observation_space = self._mapped_space()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the seed decides even what wrappers draw before they pass it on."""
        if seed is not None:
            self.env.unwrapped.np_random = seeding.np_random(seed)[0]
        observation, self.last_info = self.env.reset(seed=seed, options=options)
        return self._mapped(observation), self.last_info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; `info["is_success"]` is what `success_key` names."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.success_key:
            info = {**info, "is_success": bool(self._told(terminated, info))}
        self.last_info = info
        return self._mapped(observation), reward, terminated, truncated, info

    def _told(self, terminated: bool, info: Mapping[str, Any]) -> Any:
        if self.success_key == TERMINATED:
            return terminated
        if self.success_key not in info:
            told = f"success_key '{self.success_key}' is not in what its steps report"
            there = ", ".join(sorted(info)) or "nothing"
            raise LFMError(f"environment {env_name(self.env)}: {told}: {there}; '{TERMINATED}' is always there")
        return info[self.success_key]

    def _mapped(self, observation: Any) -> Any:
        self.last_observation = observation
        if not self.mapping:
            return observation
        return select(observe(observation), self.mapping, f"environment {env_name(self.env)}")

    def _mapped_space(self) -> spaces.Dict:
        # bounds go through the same selection as the observations they bound
        low, high = ({key: getattr(box, end) for key, box in _boxes(self.env).items()} for end in ("low", "high"))
        source = f"environment {env_name(self.env)}"
        lows, highs = select(low, self.mapping, source), select(high, self.mapping, source)
        return spaces.Dict({key: spaces.Box(lows[key], highs[key], dtype=lows[key].dtype.type) for key in self.mapping})


def observe(observation: Any) -> dict[str, np.ndarray]:
    """An observation by key, copied, whatever the space: a plain vector has the key "state"."""
    if isinstance(observation, Mapping):
        return {key: np.array(value) for key, value in observation.items()}
    return {STATE_KEY: np.array(observation)}


def observation_dims(env: gymnasium.Env) -> dict[str, int]:
    """Length of every observation vector by key; LFMError for a space of anything but vectors."""
    space, dims = env.observation_space, {}
    for key, part in (dict(space.spaces) if isinstance(space, spaces.Dict) else {STATE_KEY: space}).items():
        if not isinstance(part, spaces.Box) or len(part.shape) != 1:
            raise LFMError(
                f"environment {env_name(env)}: observation {key} is {part}; only vectors are understood, "
                "choose them with --observation"
            )
        dims[key] = part.shape[0]
    return dims


def _boxes(env: gymnasium.Env) -> dict[str, spaces.Box]:
    """The vectors among an environment's observations by key."""
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {STATE_KEY: space}
    return {key: part for key, part in parts.items() if isinstance(part, spaces.Box) and len(part.shape) == 1}


def action_dim(env: gymnasium.Env) -> int:
    """Length of an action; LFMError if actions are no vectors."""
    space = env.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise LFMError(f"environment {env_name(env)}: actions are {space}; only vectors are understood")
    return space.shape[0]


def env_name(env: gymnasium.Env) -> str:
    """The id an environment was made by."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def without_module(env_id: str) -> str:
    """Of `module:id`, the id: environments tell theirs without the module that registers it."""
    return env_id.rpartition(":")[2]


def horizon(env: gymnasium.Env) -> int | None:
    """Steps after which gymnasium ends an episode, None without a limit."""
    return env.spec.max_episode_steps if env.spec is not None else None


def is_success(info: Mapping[str, Any]) -> bool | None:
    """The task's own test, as `step` reports it; None where it tells none."""
    told = info.get("is_success", info.get("success"))
    return None if told is None else bool(told)


def check_fit(spec: Spec, env: gymnasium.Env, origin: str) -> None:
    """LFMError naming every field in which an environment differs from that of the policy of `origin`.

    An environment that tells neither `action_convention` nor `env_args` is compared by its spaces.
    """
    differences = _observation_differences(spec, env) + _action_differences(spec, env)
    differences += _version_differences(spec, env)
    if differences:
        raise LFMError(
            f"{origin}: does not fit environment {env_name(env)}: {'; '.join(differences)}; "
            "roll out in the environment it was trained for, or train on data of this one (`lfm convert` brings "
            "recordings of other versions to it)"
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


def _version(env: gymnasium.Env) -> str:
    """The version of the package that an environment's class comes from, "" if it tells none."""
    package = type(env.unwrapped).__module__.partition(".")[0]
    names = metadata.packages_distributions().get(package)
    return metadata.version(names[0]) if names else ""
