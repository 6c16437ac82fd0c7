"""Drawn images beside real ones, in the features of a network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from lfm_policy.data.images import Images
from lfm_policy.data.saved import read_description
from lfm_policy.flow import LFMError
from lfm_policy.image.config import ImageConfig
from lfm_policy.image.features import compare_features, features_of, load_features
from lfm_policy.image.generation import generate, load_pipeline
from lfm_policy.image.model import count_parameters, evaluation_macs
from lfm_policy.image.run import FORMAT, IMAGE_FILE, TYPE, find_run, read_images
from lfm_policy.progress import progress_bar

LEAST = 5  # images: precision and recall look at three neighbours of each


def evaluate_pipeline(
    config: ImageConfig,
    pipeline: str | Path,
    features: str | Path,
    n: int,
    sample_seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Fréchet distance, precision and recall of `n` images drawn from a pipeline, against the test images.

    `floor` has the same of as many training images: what a generator that knew the law would reach, about. Beside
    them stand the feature network's name and hash, the numbers of images, and what a sample costs. Image i is a
    function of (`sample_seed`, i); `batch_size` of them are drawn together. LFMError where test images would be
    among those that the pipeline was trained on.
    """
    if n < LEAST:
        raise LFMError(f"--n {n}: must be {LEAST} or more")
    if batch_size < 1:
        raise LFMError(f"--batch_size {batch_size}: must be 1 or more")
    if sample_seed < 0:
        raise LFMError(f"--sample_seed {sample_seed}: must be 0 or more")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pipe, images = load_pipeline(pipeline, config.device), read_images(config)
    if images.shape != pipe.flow.shape:
        raise LFMError(
            f"data: images are {'x'.join(map(str, images.shape))}, those of {pipeline} "
            f"{'x'.join(map(str, pipe.flow.shape))}; give the set that it was trained on"
        )
    check_images_of(Path(pipeline), images)
    if len(images.test) < LEAST:
        raise LFMError(f"data: holds {len(images.test)} test images; {LEAST} or more are needed")
    network = load_features(features, config.device, images.shape)
    with progress_bar("drawing", n, unit="image") as bar:
        drawn = generate(pipe, n, sample_seed, batch_size=batch_size, progress=bar.update)
    real, *others = (features_of(network, pixels) for pixels in (images.test.pixels, drawn, images.train.pixels[:n]))
    names = {"features": network.name, "features_sha256": network.sha256}
    of_drawn, of_training = ({**compare_features(real, other), **names} for other in others)
    nfe = pipe.nfe()
    macs = evaluation_macs(pipe.flow)
    return {
        "pipeline": str(pipeline),
        "images": {"name": images.name, "source": images.source, "split": "test", **images.identity},
        "nfe": nfe,
        "multiply_adds": None if nfe is None else nfe * macs,
        "parameters": count_parameters(pipe.flow),
        "drawn": of_drawn,
        "floor": of_training,
    }


def check_images_of(pipeline: Path, images: Images) -> None:
    """LFMError where images are not those that a pipeline's run was trained on, if it is there, or split otherwise."""
    folder = pipeline.resolve()
    for place in (folder, *list(folder.parents)[:3]):  # a pipeline, or one of students, stands within its run
        with contextlib.suppress(LFMError):
            trained = read_description(find_run(place) / IMAGE_FILE, TYPE, FORMAT, "image flow")["images"]
            break
    else:
        return
    if trained["sha256"] != images.identity["sha256"]:
        raise LFMError(
            f"data: {images.source} is not what {pipeline} was trained on ({trained['source']}), or is split by "
            "another seed, so images of training would count as test; give the same (--sample_seed draws other noise)"
        )


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
