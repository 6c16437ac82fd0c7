"""Frames, on machines with an OpenGL library; on others, what is said there."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from envs import rendering
from tests.envs.helpers import random_actions, run, trajectory


@pytest.fixture
def camera(has_opengl):
    if not has_opengl:
        pytest.skip("no OpenGL on this machine: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri")
    env = gymnasium.make("lfm/Lift-v0", render_mode="rgb_array", render_size=96, terminate_on_success=False)
    yield env
    env.close()


def reddest(frame: np.ndarray) -> np.ndarray:
    """Centre (row, column) of the pixels that are clearly red: the cube."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue) & (red > 60))
    assert rows.size > 5
    return np.array([rows.mean(), columns.mean()])


def test_frame_is_upright_and_shows_the_cube(camera):
    """Moving the cube up and to the robot's left moves it up and to the right in a camera that faces the robot."""
    camera.reset(seed=0)
    frame = camera.render()
    assert frame.shape == (96, 96, 3)
    assert frame.dtype == np.uint8
    before = reddest(frame)
    states = camera.unwrapped.get_state()["states"]
    raised, aside = states.copy(), states.copy()
    raised[12] += 0.1
    aside[11] += 0.1
    camera.unwrapped.set_states(raised)
    assert reddest(camera.render())[0] < before[0] - 5
    camera.unwrapped.set_states(aside)
    assert reddest(camera.render())[1] > before[1] + 5


def test_rendering_leaves_the_physics_alone(camera, lift):
    actions = random_actions(lift, 10)
    _, unseen = trajectory(lift, actions, seed=4)
    camera.reset(seed=4)
    for action, state in zip(actions, unseen[1:], strict=True):
        camera.render()
        camera.step(action)
        np.testing.assert_array_equal(camera.unwrapped.get_state()["states"], state)


def test_frames_follow_a_reset(camera):
    """A reset brings another model; the renderer must not go on drawing the last one."""
    camera.reset(seed=1)
    first = camera.render()
    camera.reset(seed=2)
    assert not np.array_equal(camera.render(), first)
    camera.reset(seed=1)
    np.testing.assert_array_equal(camera.render(), first)


RENDER_THEN_IMPORT = """
import gymnasium
import envs
env = gymnasium.make("lfm/Lift-v0", render_mode="rgb_array")
env.reset(seed=0)
env.render()
from lfm_policy.policy import LFMPolicy
print(LFMPolicy.kind)
"""


def test_policies_can_be_imported_after_a_frame(camera):
    """In a fresh process: the compilers that Mesa and torch bring do not get on in every order."""
    run = subprocess.run([sys.executable, "-c", RENDER_THEN_IMPORT], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "lfm\n"), run.stderr


def test_missing_opengl_is_named_with_its_remedy(monkeypatch):
    camera = gymnasium.make("lfm/Lift-v0", render_mode="rgb_array")

    def broken(size: int) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(rendering, "_gl_context", broken)
    camera.reset(seed=0)
    with pytest.raises(RuntimeError, match="libegl1 libegl-mesa0 libgl1-mesa-dri") as caught:
        camera.render()
    assert "\n" not in str(caught.value)
    assert "eglQueryString" in str(caught.value)


def test_opengl_that_cannot_start_is_one_line_and_no_traceback():
    """Drivers hidden, as on a machine without any: also what mujoco prints when it cleans up after itself."""
    code = (
        "import gymnasium, envs\n"
        "env = gymnasium.make('lfm/Lift-v0', render_mode='rgb_array'); env.reset(seed=0)\n"
        "try: env.render()\nexcept RuntimeError as error: print(error)\n"
    )
    result = run(code, __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent", MUJOCO_GL="egl")
    [line] = result.stdout.splitlines()
    assert "libegl1 libegl-mesa0 libgl1-mesa-dri" in line
    assert "Traceback" not in result.stderr


def test_opengl_that_breaks_the_import_of_mujoco_is_named_too():
    code = "import gymnasium, envs\ntry: gymnasium.make('lfm/Lift-v0')\nexcept RuntimeError as error: print(error)\n"
    [line] = run(code, MUJOCO_GL="nonsense").stdout.splitlines()
    assert "MUJOCO_GL nonsense" in line
    assert "unset MUJOCO_GL" in line
