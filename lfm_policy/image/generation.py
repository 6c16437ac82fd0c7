"""Images from a pipeline, in numbers: each with noise of its own, so that batches do not matter."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.utils import logging
from torch import Tensor

from lfm_policy.data.images import to_pixels
from lfm_policy.flow import DistilledFlow, LFMError, LocalFlow, Solver, named_generator
from lfm_policy.flow.device import check_device
from lfm_policy.flow.random import normal
from lfm_policy.image.pipeline import LFMPipeline, check_folder

PIPELINE = "pipeline"


def load_pipeline(path: str | Path, device: str = "cpu") -> LFMPipeline:
    """The pipeline in a folder, or in the run's folder that it is; LFMError where there is none."""
    check_device(device)
    path = Path(path)
    if not path.is_dir():
        raise LFMError(f"{path}: is no folder; give a pipeline's folder or the output_dir of `lfm image train`")
    folder = path / PIPELINE if (path / PIPELINE).is_dir() else path
    check_folder(folder)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipe = LFMPipeline.from_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def noise_of(pipe: LFMPipeline, first: int, count: int, seed: int) -> Tensor:
    """Noise (count, C, H, W) of images number `first` and on."""
    like = next(pipe.flow.parameters())
    draws = [normal(pipe.flow.shape, like, named_generator(seed, "image", i)) for i in range(first, first + count)]
    return torch.stack(draws)


@torch.no_grad()
def generate(
    pipe: LFMPipeline,
    n: int,
    seed: int = 0,
    solver: Solver | None = None,
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """`n` images as pixels (n, C, H, W) of uint8, with the pipeline's solver or another.

    Image i is a function of (seed, i), but for rounding; `progress` hears of batches.
    """
    found = []
    for first in range(0, n, batch_size):
        noise = noise_of(pipe, first, min(batch_size, n - first), seed)
        found.append(to_pixels(pipe.pull(noise, solver or pipe.solver())).cpu())
        progress(len(noise))
    return torch.cat(found)


@torch.no_grad()
def trajectories(pipe: LFMPipeline, n: int, seed: int = 0, per_subflow: int = 2) -> Tensor:
    """What becomes of noise on the way to images (Figure A.1): (n, moments, C, H, W), noise first, images last.

    `per_subflow` moments on each sub-flow's way, at equal distances in its time; each with the pipeline's own number of
    steps, so that the last are images of a somewhat finer solve. Students jump: one moment each.
    """
    x = noise_of(pipe, 0, n, seed)
    chain, moments = pipe.flow.flow, [x]
    if isinstance(chain, DistilledFlow):
        for student in range(1, chain.n_students + 1):
            moments.append(chain.pull(moments[-1], students=[student]))
        return torch.stack(moments, dim=1)
    solver = pipe.solver()
    assert solver is not None
    times = [1 - k / per_subflow for k in range(per_subflow)] + [0.0]
    for n_subflow in range(chain.n_subflows, 0, -1):
        field = functools.partial(_velocity, chain, n_subflow)
        for start, end in itertools.pairwise(times):
            moments.append(solver.integrate(field, moments[-1], start, end))
    return torch.stack(moments, dim=1)


def _velocity(chain: LocalFlow, n: int, x: Tensor, t: float) -> Tensor:
    return chain.velocity(n, x, t)
