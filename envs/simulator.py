"""Imports robosuite quietly, in versions known to work, and builds its environments."""

from __future__ import annotations

import difflib
import inspect
import logging
from importlib import metadata
from numbers import Real
from types import ModuleType
from typing import Any

from envs.rendering import no_gl
from envs.tasks import Task

REMEDY = "pip install 'lfm_policy[sim]'"

# renderers stay off and episodes end by our own rules, whatever a dataset's env_kwargs say
FIXED_KWARGS: dict[str, Any] = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "use_camera_obs": False,
    "use_object_obs": True,
    "ignore_done": True,
    # soft resets keep Lift's cube and Transport's hammer, so that a seed would not fix the episode
    "hard_reset": True,
}
DEFAULT_KWARGS: dict[str, Any] = {
    "reward_shaping": False,
    "control_freq": 20,
    "camera_depths": False,
    "camera_heights": 84,
    "camera_widths": 84,
    # published datasets were made with False; robosuite's own default is True
    "lite_physics": False,
}
# of the Panda, as robosuite names it
GRIPPERS = ("default", "PandaGripper")
# robosuite's MuJoCo time step is 2 ms
SUBSTEPS_PER_SECOND = 500
# written by robomimic for itself
IGNORED_KWARGS = ("lang", "env_lang")


def _version(package: str) -> tuple[str, tuple[int, int]]:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed; the environments need it: {REMEDY}") from None
    major, minor = version.split(".")[:2]
    return version, (int(major), int(minor))


def check_versions() -> None:
    """ImportError unless robosuite 1.5.x and mujoco >=3.3,<3.10 are installed; imports neither."""
    version, number = _version("robosuite")
    if number != (1, 5):
        raise ImportError(f"robosuite {version}: the environments need robosuite 1.5.x: {REMEDY}")
    version, number = _version("mujoco")
    if not (3, 3) <= number < (3, 10):
        raise ImportError(f"mujoco {version}: robosuite 1.5 works with mujoco >=3.3,<3.10: {REMEDY}")


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def load_robosuite() -> ModuleType:
    """Import robosuite without its notes on optional parts that are missing."""
    check_versions()
    # robosuite sets its logger's level while it is imported, but leaves filters alone; a filter added
    # twice counts once
    logging.getLogger("robosuite_logs").addFilter(_errors_only)
    try:
        import robosuite
    except ImportError as error:
        raise ImportError(f"robosuite cannot be imported ({error}): {REMEDY}") from error
    # mujoco loads OpenGL while it is imported if MUJOCO_GL names a kind, and then anything may be raised
    except (AttributeError, RuntimeError) as error:
        raise RuntimeError(f"{no_gl(error)}, or unset MUJOCO_GL") from error
    return robosuite


def complete_kwargs(task: Task, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `robosuite.make` from those of a dataset: defaults added, renderers switched off.

    ValueError for robots and grippers the task is not offered with, and for impossible rates.
    """
    robots = kwargs.get("robots", task.robots)
    if (list(robots) if isinstance(robots, list | tuple) else [robots]) != task.robots:
        raise ValueError(f"{task.env_id}: robots {robots!r}; only {task.robots!r} is supported")
    _check_gripper(task, kwargs.get("gripper_types", "default"))
    _check_frequency(task, kwargs.get("control_freq", DEFAULT_KWARGS["control_freq"]))
    given = {key: value for key, value in kwargs.items() if key not in IGNORED_KWARGS}
    return DEFAULT_KWARGS | {"robots": task.robots} | dict(task.extra) | given | FIXED_KWARGS


def _check_gripper(task: Task, value: Any) -> None:
    names = list(value) if isinstance(value, list | tuple) else [value]
    if not names or any(name not in GRIPPERS for name in names):
        raise ValueError(f"{task.env_id}: gripper_types {value!r}; only the Panda's is supported, leave it out")


def _check_frequency(task: Task, value: Any) -> None:
    """A step is so many whole substeps: at rates that do not divide 500 robosuite acts a little faster than it says."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= SUBSTEPS_PER_SECOND or value != int(value):
        told = f"must be a whole number of steps a second from 1 to {SUBSTEPS_PER_SECOND}"
        raise ValueError(f"{task.env_id}: control_freq {value!r}; {told}")


def _check_names(robosuite: ModuleType, task: Task, kwargs: dict[str, Any]) -> None:
    env_class = robosuite.environments.REGISTERED_ENVS[task.env_name]
    known: set[str] = set()
    for base in env_class.__mro__[:-1]:
        known |= set(inspect.signature(base.__init__).parameters)
    if "seed" in kwargs:
        raise ValueError(f"{task.env_id}: unknown keyword argument 'seed'; give it to reset(seed=...)")
    for key in kwargs:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, "rotation", "representation", "frame"], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{task.env_id}: unknown keyword argument {key!r}{hint}")


def build(task: Task, kwargs: dict[str, Any]) -> Any:
    """robosuite's environment of a task; `kwargs` as `complete_kwargs` gives them."""
    robosuite = load_robosuite()
    _check_names(robosuite, task, kwargs)
    # construction draws too; a seed keeps it from asking the operating system for entropy
    return robosuite.make(task.env_name, **kwargs, seed=0)
