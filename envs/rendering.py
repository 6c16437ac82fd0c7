"""Frames from MuJoCo without robosuite's renderer: made on the first frame, never touching the physics."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import platform
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray


def no_gl(error: Exception) -> str:
    """One line on missing OpenGL, with the remedy."""
    kind = os.environ.get("MUJOCO_GL", "unset")
    return (
        f"no OpenGL for rendering (MUJOCO_GL {kind}: {' '.join(str(error).split())}); on Debian: apt install "
        "libegl1 libegl-mesa0 libgl1-mesa-dri and MUJOCO_GL=egl, or apt install libosmesa6 and MUJOCO_GL=osmesa"
    )


def _gl_context(size: int) -> Any:
    """An OpenGL context of MUJOCO_GL's kind; robosuite's import sets it to egl on Linux unless osmesa or glx.

    mujoco.Renderer is no use: it takes the kind of the moment mujoco was imported, which may be long before
    anyone asks for frames, and glfw wants a display.
    """
    # Mesa draws with LLVM, and triton, which torch imports later, ends the process where it meets Mesa's before its own
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    kind = os.environ.get("MUJOCO_GL", "").lower()
    if platform.system() == "Darwin":
        from mujoco.cgl import GLContext
    elif kind == "osmesa":
        from mujoco.osmesa import GLContext
    elif kind in ("glx", "glfw") or platform.system() == "Windows":
        from mujoco.glfw import GLContext
    else:
        from mujoco.egl import GLContext
    # mujoco's destructor reads _context even where its constructor failed, and would print a traceback
    return type("QuietGLContext", (GLContext,), {"_context": None})(size, size)


class _Canvas:
    """An OpenGL context, and what MuJoCo keeps in it for one model at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._gl = _gl_context(size)
        self._model: Any = None
        self.context: Any = None
        self.scene: Any = None
        # mujoco shuts EGL down at exit: registered later than that, this runs before
        atexit.register(self.free)

    def bind(self, model: Any) -> None:
        """Make it ready for this model: a hard reset brings a new one."""
        import mujoco

        self._gl.make_current()
        if self._model is model:
            return
        self._free_model()
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self._size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self._size)
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.scene = mujoco.MjvScene(model, maxgeom=10000)
        self._model = model

    def free(self) -> None:
        """Give everything back; twice does no harm."""
        atexit.unregister(self.free)
        if self._gl is not None:
            self._gl.make_current()
            self._free_model()
            self._gl.free()
            self._gl = None

    def _free_model(self) -> None:
        if self.context is not None:
            self.context.free()
        self.context, self.scene, self._model = None, None, None


class FrameRenderer:
    """Renders square frames of a robosuite environment from one of its cameras."""

    def __init__(self, size: int, camera: str) -> None:
        self.size = size
        self.camera = camera
        self._canvas: _Canvas | None = None

    def frame(self, env: Any) -> NDArray[np.uint8]:
        """The present scene, (size, size, 3) uint8, upright; RuntimeError without OpenGL."""
        import mujoco

        model, data = env.sim.model._model, env.sim.data._data
        canvas = self._prepare(model)
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = env.sim.model.camera_name2id(self.camera)
        options = mujoco.MjvOption()
        # group 0 holds the collision shapes, group 1 what one sees
        options.geomgroup[0], options.geomgroup[1] = 0, 1
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, options, None, camera, everything, canvas.scene)
        viewport = mujoco.MjrRect(0, 0, self.size, self.size)
        mujoco.mjr_render(viewport, canvas.scene, canvas.context)
        pixels = np.empty((self.size, self.size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, canvas.context)
        return np.flipud(pixels).copy()

    def _prepare(self, model: Any) -> _Canvas:
        try:
            if self._canvas is None:
                self._canvas = _Canvas(self.size)
                weakref.finalize(self, self._canvas.free).atexit = False
            self._canvas.bind(model)
        # what is raised depends on which piece of OpenGL is missing: ImportError, AttributeError,
        # RuntimeError, mujoco.FatalError, OpenGL.error.GLError
        except Exception as error:
            raise RuntimeError(no_gl(error)) from error
        return self._canvas

    def close(self) -> None:
        """Free the OpenGL context; the next frame makes a new one."""
        if self._canvas is not None:
            self._canvas.free()
            self._canvas = None
