"""What stands between robomimic 0.3 to 0.5 and the simulators of today."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
import types

from lfm_policy.flow import LFMError

OLDEST, NEWEST = (0, 3), (0, 5)
REMEDY = "pip install 'lfm_policy[robomimic]', then pip install --no-deps robomimic==0.3.0 (docs/robomimic.md)"


def prepare() -> None:
    """Make the installed robomimic importable and its two scripts runnable; LFMError if it is none that we know."""
    if importlib.util.find_spec("robomimic") is None:
        raise LFMError(f"robomimic: is not installed; {REMEDY}")
    import robomimic

    version = check_version(getattr(robomimic, "__version__", "unknown"))
    if version < (0, 4):
        _stand_in_for_mujoco_py()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # advice about a private macro file, on every import
            import robomimic.macros
        import robomimic.utils.file_utils
    except (ImportError, OSError) as error:  # OSError: the tag v0.5.0 downloads a language model when imported
        cause = " ".join(str(error).split())[:200]
        raise LFMError(f"robomimic: {robomimic.__version__} cannot be imported ({cause}); {REMEDY}") from error
    _accept_wrappers()


def check_version(version: str) -> tuple[int, int]:
    """(major, minor) of a robomimic that works; LFMError names the one that does."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise LFMError(f"robomimic: its version is '{version}'; install one that works: {REMEDY}")
    number = int(found[1]), int(found[2])
    if not OLDEST <= number <= NEWEST:
        age = "old" if number < OLDEST else "new"
        raise LFMError(f"robomimic: {version} is too {age}; versions 0.3.0 to 0.5 work: {REMEDY}")
    return number


def _stand_in_for_mujoco_py() -> None:
    """robomimic 0.3's environments import mujoco_py for the name of one exception, which robosuite 1.5 never raises."""
    if "mujoco_py" in sys.modules or importlib.util.find_spec("mujoco_py") is not None:
        return
    module = types.ModuleType("mujoco_py", "Stands in for mujoco_py in robomimic 0.3; has no simulator.")
    exception = type("MujocoException", (Exception,), {})
    module.builder = types.SimpleNamespace(MujocoException=exception)  # type: ignore[attr-defined]
    sys.modules["mujoco_py"] = module


def _accept_wrappers() -> None:
    """Let isinstance(wrapped, EnvBase) be true.

    run_trained_agent.py of 0.3 and 0.4 asserts it of the environment, but frame_stack > 1 makes robomimic itself
    wrap that in its FrameStackWrapper, which derives from nothing; 0.5 asks for either. A wrapper offers all that
    an EnvBase does, by delegation, so it may count as one.
    """
    from robomimic.envs.env_base import EnvBase
    from robomimic.envs.wrappers import EnvWrapper

    EnvBase.register(EnvWrapper)
