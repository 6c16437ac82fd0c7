"""LFM beside InterFlow and FM on Fashion-MNIST at equal budget, before and after distillation.

`python -m benchmarks.fashion_mnist --path FOLDER` (the four idx files, as Debian's package dataset-fashion-mnist has
them) writes results/image/fashion_mnist.json; `--rates` writes results/image/fashion_mnist_rates.json, the search of
learning rates by the held-out loss. `python -m benchmarks.fashion_mnist_plots` draws both.

Equal budget: the same 20,000 images; all networks of a method together have 0.64 M weights, within 2 %; each sees
STEPS batches of BATCH images, the control (one network of a quarter, over the whole clock) four times as many. Students
of a method have as many weights together as their teacher and take the same number of batches each; those that stand
for k = 2 sub-flows are widened and drawn anew; those of `lfm4_copied` are copies of their teacher's networks, with half
its weights. A global teacher's students share one network, as a global flow does.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import run_jobs
from lfm_policy.data.images import ImageDataConfig, Images, load_images
from lfm_policy.evaluation.frechet import frechet_distance, moments, precision_recall
from lfm_policy.flow import Solver
from lfm_policy.image.classifier import ClassifierOptions, save_classifier, train_classifier
from lfm_policy.image.config import DistillationConfig, ImageConfig, SamplesConfig
from lfm_policy.image.distillation import DistillRun
from lfm_policy.image.features import FeatureNetwork, features_of, load_features
from lfm_policy.image.generation import generate, load_pipeline
from lfm_policy.image.grids import save_grid
from lfm_policy.image.model import UNet2dConfig, count_parameters, evaluation_macs
from lfm_policy.image.pipeline import LFMPipeline
from lfm_policy.image.run import ImageRun
from lfm_policy.training.config import FlowConfig, TrainingConfig

RESULTS, WORK = Path("results/image"), Path("runs/fashion_mnist")
SEEDS, SAMPLES, N_TRAIN = (0, 1, 2), 2000, 20_000
STEPS, BATCH, DISTILL_STEPS, DISTILL_BATCH = 500, 64, 100, 32
WIDTHS = {1: (32, 64), 2: (24, 44), 4: (16, 32)}  # of networks with all, a half, a quarter of the weights
RATES = {1: 4e-3, 2: 8e-3, 4: 8e-3}  # the search's best but for 1: twice as much gains 0.6 %, four times diverges
TRIED = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)

EXACT = FlowConfig(interpolant="geodesic", coupling="common", marginals="exact")
METHODS: dict[str, FlowConfig] = {
    "lfm4": replace(EXACT, shared_start=2 * STEPS),
    "lfm2": replace(EXACT, n_subflows=2, shared_start=STEPS),
    "lfm4_paper": FlowConfig(interpolant="trigonometric", push_method="midpoint", push_steps=2),
    "small": replace(EXACT, share_weights=True),
    "interflow": FlowConfig(n_subflows=1, interpolant="trigonometric"),
    "fm": FlowConfig(n_subflows=1, interpolant="ot"),
    "lfm4_copied": replace(EXACT, shared_start=2 * STEPS),
}
COPIED = "lfm4_copied"  # whose students for k = 2 are copies of the teacher's networks, not widened ones drawn anew
NFE = (4, 8, 32)


def share(flow: FlowConfig) -> int:
    """Networks that share the weights of the budget: 1, 2 or 4."""
    return flow.n_subflows


def config(method: str, seed: int, path: str, folder: Path) -> ImageConfig:
    """A run of a method."""
    flow = METHODS[method]
    # a shared start takes its batches from the sub-flows'
    steps = STEPS - (flow.shared_start // flow.n_subflows)
    return ImageConfig(
        output_dir=str(folder),
        data=ImageDataConfig("idx", path, n_train=N_TRAIN),
        network=UNet2dConfig(WIDTHS[share(flow)], 1, n_groups=4, patch_size=2),
        flow=flow,
        training=TrainingConfig(
            **optimization(share(flow)), steps=steps, log_every=100, valid_every=10**6, checkpoint_every=10**6
        ),
        samples=SamplesConfig(0),
        seed=seed,
        threads=1,
        overwrite=True,
    )


def optimization(size: int) -> dict[str, Any]:
    """Of a network of that share, for training."""
    return {
        "batch_size": BATCH,
        "learning_rate": RATES[size],
        "beta1": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 50,
        "max_grad_norm": 1.0,
        "ema_maximum": 0.99,
    }


def solvers(n_subflows: int, nfe: int) -> list[Solver]:
    """The ways to spend so many evaluations on a chain: the midpoint rule where it divides, and Euler where few."""
    each = nfe // n_subflows
    euler = [Solver("euler", each)] if nfe < max(NFE) else []
    return [*euler, *([Solver("midpoint", each // 2)] if each % 2 == 0 else [])]


@cache
def real(path: str) -> Images:
    """The images, of one seed for all: they have a test part of their own."""
    return load_images(ImageDataConfig("idx", path, n_train=N_TRAIN))


@cache
def network(features: str) -> FeatureNetwork:
    """The classifier whose features are compared."""
    return load_features(features)


class Judge:
    """Fréchet distance, precision and recall against the 10,000 test images."""

    def __init__(self, path: str, features: str) -> None:
        self.network = network(features)
        self.features = features_of(self.network, real(path).test.pixels)
        self.moments = moments(self.features)

    def __call__(self, pixels: torch.Tensor) -> dict[str, float]:
        """Of drawn images."""
        drawn = features_of(self.network, pixels)
        found = precision_recall(self.features[: len(drawn)], drawn)
        distance = frechet_distance(*self.moments, *moments(drawn))
        return {
            "frechet_distance": round(distance, 4),
            "precision": round(found.precision, 4),
            "recall": round(found.recall, 4),
        }


def measured(pipe: LFMPipeline, judge: Judge, solver: Solver | None, nfe: int, picture: Path | None) -> dict[str, Any]:
    """Images of one sampler."""
    pixels = generate(pipe, SAMPLES, 0, solver)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_grid(picture, pixels[:32], 8)
    name = "students" if solver is None else solver.method
    return {"nfe": nfe, "solver": name, "multiply_adds": nfe * evaluation_macs(pipe.flow), **judge(pixels)}


def run(method: str, seed: int, path: str, features: str) -> dict[str, Any]:
    """Train, draw, distil and draw again."""
    folder, judge = WORK / f"{method}_{seed}", Judge(path, features)
    begin = time.perf_counter()
    training = ImageRun(config(method, seed, path, folder), say=lambda line: None)
    training.train()
    seconds = time.perf_counter() - begin
    pipe = load_pipeline(folder)
    n, keep = METHODS[method].n_subflows, seed == SEEDS[0]
    name = lambda kind, nfe: WORK / f"pictures/{method}_{kind}_{nfe}.png" if keep else None  # noqa: E731
    rows = [
        measured(pipe, judge, s, nfe, name("teacher", nfe) if s.method == "euler" else None)
        for nfe in (() if method == COPIED else NFE)  # its teacher is lfm4's
        for s in solvers(n, nfe)
    ]
    students = [distilled(method, count, seed, path, folder, judge, name) for count in counts(method)]
    shutil.rmtree(folder)
    return {
        "parameters": count_parameters(pipe.flow),
        "evaluation_multiply_adds": evaluation_macs(pipe.flow),
        "train_seconds": round(seconds, 1),
        "teacher": rows,
        "students": students,
    }


def counts(method: str) -> tuple[int, ...]:
    """Students to distil into: k = 1 and k = 2 of a chain, the same evaluations of a global flow."""
    if method == COPIED:
        return (2,)
    return (4, 2) if METHODS[method].n_subflows in (1, 4) else (2, 1)


def distilled(method: str, count: int, seed: int, path: str, folder: Path, judge: Judge, name: Any) -> dict[str, Any]:
    """One set of students and what they draw."""
    flow = METHODS[method]
    one = flow.n_subflows == 1 or flow.share_weights
    stretches = 4 if one else flow.n_subflows
    k = stretches // count
    settings = DistillationConfig(
        **{**optimization(share(flow)), "batch_size": DISTILL_BATCH, "learning_rate": RATES[share(flow)] / 2},
        n_students=count,
        n_stretches=stretches if one else None,
        channels=WIDTHS[share(flow) if one or method == COPIED else share(flow) // k],
        steps=DISTILL_STEPS,
        teacher_steps=2 * (4 // stretches),  # 16 evaluations of the whole teacher, for all
        log_every=100,
        checkpoint_every=10**6,
    )
    begin = time.perf_counter()
    distillation = DistillRun(replace(config(method, seed, path, folder), distillation=settings), say=lambda line: None)
    distillation.train()
    seconds = time.perf_counter() - begin
    pipe = load_pipeline(distillation.folder)
    return {
        "k": k,
        "parameters": count_parameters(pipe.flow),
        "distill_seconds": round(seconds, 1),
        **measured(pipe, judge, None, count, name("students", count)),
    }


def run_rate(size: int, rate: float, path: str) -> dict[str, Any]:
    """Held-out loss of plain flow matching with a network of that size."""
    wanted = config("fm", 0, path, WORK / f"rate_{size}_{rate}")
    wanted = replace(
        wanted,
        network=replace(wanted.network, channels=WIDTHS[size]),
        training=replace(wanted.training, learning_rate=rate),
    )
    training = ImageRun(wanted, say=lambda line: None)
    training.train()
    shutil.rmtree(wanted.output_dir)
    return {"held_out_loss": training.fitter.held_out_loss()}


def classifier(path: str, out: Path) -> dict[str, Any]:
    """Train the feature network, once; its facts."""
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        whole = load_images(ImageDataConfig("idx", path))
        save_classifier(train_classifier(whole, ClassifierOptions(), 0), out)
    found = network(str(out))
    return {"features": {"name": found.name, "sha256": found.sha256, "dim": found.dim}}


def main() -> None:
    """Search rates, or run all methods."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True, help="folder of the four idx files")
    parser.add_argument("--rates", action="store_true", help="search learning rates instead")
    arguments = parser.parse_args()
    places: dict[str, Any] = {"path": arguments.path}
    facts: dict[str, Any] = {"data": "Fashion-MNIST", "n_train": N_TRAIN, "steps": STEPS, "batch_size": BATCH}
    if arguments.rates:
        jobs = [{"size": size, "rate": rate} for rate in TRIED for size in WIDTHS]
        run_jobs(RESULTS / "fashion_mnist_rates.json", run_rate, jobs, {**facts, "seeds": [0]}, places=places)
        return
    features = WORK / "classifier.safetensors"
    facts |= classifier(arguments.path, features)
    facts["seeds"], facts["samples"], facts["real"] = list(SEEDS), SAMPLES, "10,000 images of the test split"
    facts["distill_steps"], facts["distill_batch_size"] = DISTILL_STEPS, DISTILL_BATCH
    facts["learning_rates"] = {WIDTHS[size][0]: rate for size, rate in RATES.items()}
    judge = Judge(arguments.path, str(features))
    facts["floor"] = judge(torch.tensor(real(arguments.path).train.pixels[:SAMPLES]))
    jobs = [{"method": method, "seed": seed} for seed in SEEDS for method in METHODS]
    places["features"] = str(features)
    run_jobs(RESULTS / "fashion_mnist.json", run, jobs, facts, places=places)


if __name__ == "__main__":
    main()
