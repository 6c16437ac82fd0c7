"""Drawn images beside real ones, in the features of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lfm_policy.flow import LFMError
from lfm_policy.image.config import ImageConfig
from lfm_policy.image.features import evaluate_images, load_features
from lfm_policy.image.generation import generate, load_pipeline
from lfm_policy.image.model import count_parameters, evaluation_macs
from lfm_policy.image.run import read_images
from lfm_policy.progress import progress_bar

LEAST = 5  # images: precision and recall look at three neighbours of each


def evaluate_pipeline(config: ImageConfig, pipeline: str | Path, features: str | Path, n: int) -> dict[str, Any]:
    """Fréchet distance, precision and recall of `n` images drawn from a pipeline, against the test images.

    `floor` has the same of as many training images: what a generator that knew the law would reach, about. Beside
    them stand the feature network's name and hash, the numbers of images, and what a sample costs.
    """
    if n < LEAST:
        raise LFMError(f"--n {n}: must be {LEAST} or more")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pipe, images = load_pipeline(pipeline, config.device), read_images(config)
    if images.shape != pipe.flow.shape:
        raise LFMError(
            f"data: images are {'x'.join(map(str, images.shape))}, those of {pipeline} "
            f"{'x'.join(map(str, pipe.flow.shape))}; give the set that it was trained on"
        )
    network = load_features(features, config.device, images.shape)
    with progress_bar("drawing", n, unit="image") as bar:
        drawn = generate(pipe, n, config.seed, progress=bar.update)
    real = images.test.pixels
    nfe = pipe.nfe()
    macs = evaluation_macs(pipe.flow)
    return {
        "pipeline": str(pipeline),
        "images": {"name": images.name, "source": images.source, "split": "test", **images.identity},
        "nfe": nfe,
        "multiply_adds": None if nfe is None else nfe * macs,
        "parameters": count_parameters(pipe.flow),
        "drawn": evaluate_images(real, drawn, network),
        "floor": evaluate_images(real, images.train.pixels[:n], network),
    }


def told(found: dict[str, Any]) -> str:
    """The figures in lines for a terminal."""
    lines = [f"{'':12}{'Fréchet':>10}{'precision':>11}{'recall':>9}"]
    for name, label in (("drawn", "drawn"), ("floor", "training")):
        row = found[name]
        figures = f"{row['frechet_distance']:10.3f}{row['precision']:11.3f}{row['recall']:9.3f}"
        lines.append(f"{label:12}{figures}   {row['n_fake']:,} images")
    drawn = found["drawn"]
    lines.append(
        f"against {drawn['n_real']:,} test images; features {drawn['features']} ({drawn['features_sha256'][:12]})"
    )
    if found["nfe"] is not None:
        lines.append(f"{found['nfe']} network evaluations, {found['multiply_adds']:,} multiply-adds a sample")
    return "\n".join(lines)
