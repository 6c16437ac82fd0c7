"""Frames from MuJoCo without robosuite's renderer: made on the first frame, never touching the physics."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_GL = (
    "no OpenGL for rendering ({error}); on Debian: apt install libegl1 libegl-mesa0 libgl1-mesa-dri and "
    "MUJOCO_GL=egl, or apt install libosmesa6 and MUJOCO_GL=osmesa"
)


def _gl_context(size: int) -> Any:
    """An OpenGL context of MUJOCO_GL's kind, which robosuite's import sets to egl on Linux if it is unset.

    mujoco.Renderer chooses when mujoco is first imported, which may be long before anyone asks for frames.
    """
    kind = os.environ.get("MUJOCO_GL", "").lower()
    if platform.system() == "Darwin":
        from mujoco.cgl import GLContext
    elif kind == "osmesa":
        from mujoco.osmesa import GLContext
    elif kind in ("glx", "glfw") or platform.system() == "Windows":
        from mujoco.glfw import GLContext
    else:
        from mujoco.egl import GLContext
    return GLContext(size, size)


class FrameRenderer:
    """Renders square frames of a robosuite environment from one of its cameras."""

    def __init__(self, size: int, camera: str) -> None:
        self.size = size
        self.camera = camera
        self._gl: Any = None
        self._model: Any = None
        self._context: Any = None
        self._scene: Any = None

    def frame(self, env: Any) -> NDArray[np.uint8]:
        """The present scene, (size, size, 3) uint8, upright; RuntimeError without OpenGL."""
        import mujoco

        self._prepare(env.sim.model._model)
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = env.sim.model.camera_name2id(self.camera)
        options = mujoco.MjvOption()
        # group 0 holds the collision shapes, group 1 what one sees
        options.geomgroup[0], options.geomgroup[1] = 0, 1
        mujoco.mjv_updateScene(
            self._model,
            env.sim.data._data,
            options,
            None,
            camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, self.size, self.size)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = np.empty((self.size, self.size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return np.flipud(pixels).copy()

    def _prepare(self, model: Any) -> None:
        """A context for this model: a hard reset brings a new one."""
        import mujoco

        try:
            if self._gl is None:
                self._gl = _gl_context(self.size)
            self._gl.make_current()
            if self._model is not model:
                self._free_context()
                model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.size)
                model.vis.global_.offheight = max(model.vis.global_.offheight, self.size)
                self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
                mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
                self._scene = mujoco.MjvScene(model, maxgeom=10000)
                self._model = model
        # what is raised depends on which piece of OpenGL is missing: ImportError, AttributeError,
        # RuntimeError, mujoco.FatalError, OpenGL.error.GLError
        except Exception as error:
            self.close()
            raise RuntimeError(
                NO_GL.format(error=str(error).splitlines()[0] if str(error) else error)
            ) from error

    def _free_context(self) -> None:
        if self._context is not None:
            self._context.free()
        self._context, self._scene, self._model = None, None, None

    def close(self) -> None:
        """Free the OpenGL context; the next frame makes a new one."""
        if self._gl is not None:
            self._gl.make_current()
            self._free_context()
            self._gl.free()
            self._gl = None
