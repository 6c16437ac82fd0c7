"""What stands beside every number: the command, versions and hardware."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "lfm_policy",
    "torch",
    "numpy",
    "scipy",
    "torchdiffeq",
    "scikit-learn",
    "diffusers",
    "gymnasium",
    "robosuite",
    "mujoco",
    "gym-pusht",
    "pymunk",
    "metaworld",
)
# other versions of these may make another episode of the same seed
SIMULATION = ("lfm_policy", "numpy", "scipy", "gymnasium", "robosuite", "mujoco", "gym-pusht", "pymunk", "metaworld")
# and these another chunk of the same observation
INFERENCE = ("torch", "torchdiffeq", "diffusers")


def provenance() -> dict[str, Any]:
    """The command as it was typed, versions of what is installed, and the machine."""
    return {"command": command(sys.argv), "versions": versions(), "hardware": hardware()}


def command(argv: Sequence[str]) -> str:
    """The command line, without this machine's folders: they say nothing to whoever repeats it."""
    program = [Path(argv[0]).name] if argv else []
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None and argv and Path(argv[0]) == Path(module.origin or ""):
        program = ["python", "-m", module.name.removesuffix(".__main__")]
    return shlex.join([*program, *map(without_cwd, argv[1:])])


def without_cwd(argument: str) -> str:
    """The argument with absolute paths below the working directory made relative to it."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        value = str(path.relative_to(Path.cwd()))
    return option + equals + value


def versions() -> dict[str, str]:
    """Python and the packages that figures depend on, those that are installed."""
    return {"python": platform.python_version(), **versions_of(PACKAGES)}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Packages by name, those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor and cores this process may use; every worker computes with one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu_model(), "cores": cores, "threads_per_worker": 1}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
