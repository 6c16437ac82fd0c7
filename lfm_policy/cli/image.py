"""`lfm image train|distill|sample|evaluate|classifier`: image flows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfm_policy.cli.parser import OneLineParser, call, make_parser
from lfm_policy.flow import LFMError

if TYPE_CHECKING:
    from lfm_policy.image.config import ImageConfig

ACTIONS = {
    "train": "learn to draw images; writes checkpoints, grids and a diffusers pipeline",
    "distill": "distil a trained run into students of one evaluation each",
    "sample": "draw images from a pipeline into a grid, with the way from noise to them",
    "classifier": "train a classifier of the same images, whose features `evaluate` can compare by",
    "evaluate": "report Fréchet distance, precision and recall",
}


def main(arguments: list[str], prog: str) -> int:
    """Run one of the actions; 130 after Ctrl-C in training, with a checkpoint to resume from."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(prog))
        return 0
    action, rest = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise LFMError(f"{prog}: has no action '{action}'; there are {', '.join(ACTIONS)}")
    prog = f"{prog} {action}"
    if action == "sample":
        return call(sample, rest, prog)
    parser = _parser(prog, ACTIONS[action])
    if action == "classifier":
        parser.add_argument("--out", required=True, help="file to write, .safetensors")
        parser.add_argument("--steps", type=int, default=2000, help="optimiser steps, of 128 images each")
    if action == "evaluate":
        parser.add_argument("--features", required=True, help="feature network: a classifier's file, or weights")
        parser.add_argument("--n", type=int, default=10_000, help="images to draw")
        parser.add_argument("--pipeline", help="pipeline to draw from; that of output_dir, if not given")
        parser.add_argument("--sample_seed", type=int, default=0, help="seed of the noise")
        parser.add_argument("--batch_size", type=int, default=256, help="images drawn together")
        parser.add_argument("--json", help="file to write; evaluation.json beside the pipeline, if not given")
    values = parser.instantiate(parser.parse_args(rest)).as_dict()
    values.pop("config", None)
    own = ("out", "steps", "features", "n", "pipeline", "sample_seed", "batch_size", "json")
    extras = {name: values.pop(name) for name in own if name in values}
    functions: dict[str, Callable[..., int]] = {
        "train": train,
        "distill": distill,
        "evaluate": evaluate,
        "classifier": classifier,
    }
    return functions[action](_config(values), **extras)


def train(config: ImageConfig) -> int:
    """Train and write the pipeline and a grid of its images."""
    from lfm_policy.image.model import count_parameters
    from lfm_policy.image.run import ImageRun

    run = ImageRun(config)
    sizes = f"{len(run.images.train):,} images to train on, {len(run.images.test):,} held out"
    c, h, w = run.images.shape
    skipped = run.images.identity.get("skipped")
    print(
        f"{run.images.name}: {run.images.source}; {sizes}, {w} x {h} x {c}" + (f"; {skipped} skipped" * bool(skipped))
    )
    print(f"{len(run.flow.fields)} networks, {count_parameters(run.model):,} parameters in all")
    return _ended(run.train(), run.done, run.interrupted, Path(config.output_dir), config.device)


def distill(config: ImageConfig) -> int:
    """Distil the run in output_dir and write the students' pipeline and a grid."""
    from lfm_policy.image.distillation import DistillRun
    from lfm_policy.image.model import count_parameters

    run = DistillRun(config)
    print(f"{run.distiller.students.n_students} students, {count_parameters(run.model):,} parameters in all")
    return _ended(run.train(), run.done, run.interrupted, run.folder, config.device)


def sample(
    pipeline: str,
    out: str = "samples.png",
    n: int = 64,
    seed: int = 0,
    method: str | None = None,
    steps: int | None = None,
    trajectory: str | None = None,
    rows: int = 8,
    per_subflow: int = 2,
    batch_size: int = 256,
    device: str = "cpu",
    overwrite: bool = False,
) -> int:
    """Draw images from a pipeline into a grid.

    Args:
        pipeline: its folder, or a run's output_dir.
        out: PNG file to write.
        n: images to draw.
        seed: of their noise; image i is the same for every n.
        method: solver, instead of the pipeline's.
        steps: solver steps per sub-flow, instead of the pipeline's.
        trajectory: PNG file for the way from noise to images: a row each.
        rows: images whose way is drawn.
        per_subflow: moments on the way through a sub-flow.
        batch_size: images drawn together.
        device: `cpu`, `cuda`, …
        overwrite: replace files.
    """
    from lfm_policy.data.images import to_pixels
    from lfm_policy.evaluation.files import check_outputs, check_suffix
    from lfm_policy.flow.device import check_device
    from lfm_policy.image.generation import generate, load_pipeline, trajectories
    from lfm_policy.image.grids import save_grid
    from lfm_policy.image.model import evaluation_macs
    from lfm_policy.progress import progress_bar

    _check_counts(n=n, rows=rows, per_subflow=per_subflow, batch_size=batch_size)
    check_outputs({"out": out, "trajectory": trajectory}, overwrite)
    for option, name in (("out", out), ("trajectory", trajectory)):
        check_suffix(option, name, (".png",))
    check_device(device)
    pipe = load_pipeline(pipeline, device)
    solver, nfe = pipe.solver(method, steps), pipe.nfe(method, steps)  # type: ignore[arg-type]
    with progress_bar("drawing", n, unit="image") as bar:
        save_grid(out, generate(pipe, n, seed, solver, batch_size, bar.update))
    cost = (
        ""
        if nfe is None
        else f", {nfe} network evaluations and {nfe * evaluation_macs(pipe.flow):,} multiply-adds each"
    )
    print(f"{n:,} images: {out}{cost}")
    if trajectory is not None:
        moments = trajectories(pipe, rows, seed, per_subflow)
        save_grid(trajectory, to_pixels(moments.flatten(0, 1)).cpu(), moments.shape[1])
        print(f"the way from noise to {rows} of them: {trajectory}")
    return 0


def classifier(config: ImageConfig, out: str, steps: int) -> int:
    """Train a classifier of the config's images and write it."""
    import torch

    from lfm_policy.evaluation.files import check_outputs, check_suffix
    from lfm_policy.image.classifier import ClassifierOptions, save_classifier, train_classifier
    from lfm_policy.image.run import read_images
    from lfm_policy.progress import progress_bar

    check_outputs({"out": out}, config.overwrite)
    check_suffix("out", out, (".safetensors",))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    images, options = read_images(config), ClassifierOptions(steps=steps)
    with progress_bar("training a classifier", options.steps, unit="step") as bar:
        trained = train_classifier(images, options, config.seed, lambda *_: bar.update())
    save_classifier(trained, Path(out))
    print(f"{out}: {trained.accuracy:.4f} of {len(images.test):,} test images right")
    return 0


def evaluate(
    config: ImageConfig,
    features: str,
    n: int,
    pipeline: str | None,
    sample_seed: int,
    batch_size: int,
    json: str | None,
) -> int:
    """Compare drawn images with the test images (the training images beside them) and write evaluation.json."""
    from lfm_policy.evaluation.files import check_outputs, write_json
    from lfm_policy.image.evaluation import evaluate_pipeline, told
    from lfm_policy.provenance import provenance

    place = pipeline or config.output_dir
    check_outputs({"json": json}, config.overwrite)
    found = evaluate_pipeline(config, place, features, n, sample_seed, batch_size)
    out = Path(json) if json else Path(place) / "evaluation.json"
    write_json(out, {**provenance(), "seeds": [sample_seed], **found})
    print(told(found))
    print(f"figures: {out}")
    return 0


def _ended(folder: Path, done: bool, interrupted: bool, run: Path, device: str) -> int:
    if not done:
        print(f"stopped; {folder} is complete up to here, continue with --resume true")
        return 130 if interrupted else 0
    print(f"trained; {folder}")
    return sample(str(folder), str(run / "samples.png"), device=device, overwrite=True)


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise LFMError(f"--{name} {value}: must be 1 or more")


def _parser(prog: str, description: str) -> OneLineParser:
    from lfm_policy.image.config import ImageConfig

    parser = make_parser(prog, description, with_config=True)
    parser.add_class_arguments(ImageConfig)
    return parser


def _config(values: dict[str, Any]) -> ImageConfig:
    from lfm_policy.image.config import ImageConfig

    return ImageConfig(**values)


def _help(prog: str) -> str:
    width = max(map(len, ACTIONS))
    lines = [f"  {name:<{width}}  {text}" for name, text in ACTIONS.items()]
    usage = f"usage: {prog} ACTION [options]"
    return "\n".join([usage, "", *lines, "", f"{prog} ACTION --help tells more."])
