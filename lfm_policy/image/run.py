"""A run of `lfm image train`: images in, checkpoints, grids and a pipeline out, resumable at any step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lfm_policy.data.images import Images, ImageSet, ImageSource, load_images, to_pixels
from lfm_policy.data.saved import find_folder, load_modules, read_description
from lfm_policy.flow import Fitter, LFMError, LocalFlow, StepReport, named_generator
from lfm_policy.flow.device import check_device
from lfm_policy.flow.fit import WHOLE_CLOCK
from lfm_policy.flow.matching import ou_transition
from lfm_policy.image.config import ImageConfig
from lfm_policy.image.generation import PIPELINE
from lfm_policy.image.grids import save_grid
from lfm_policy.image.model import LocalFlowModel, new_model
from lfm_policy.image.pipeline import WEIGHTS, LFMPipeline, replace_pipeline
from lfm_policy.image.pushed import DiskStore, bytes_needed, check_space
from lfm_policy.progress import progress_bar
from lfm_policy.provenance import versions
from lfm_policy.training.checkpoint import load_training_state, save_checkpoint
from lfm_policy.training.config import fit_options
from lfm_policy.training.folder import (
    RUN_PARTS,
    Interruption,
    check_output_dir,
    check_unchanged,
    leave_nothing,
    prepare_folder,
    remove_parts,
)
from lfm_policy.training.loop import train

FORMAT, TYPE, IMAGE_FILE = 1, "image_flow", "image.json"
SAMPLES, PUSHED = "samples", "pushed"
PARTS = (*RUN_PARTS, SAMPLES, PUSHED, PIPELINE, "evaluation.json")
HELD_OUT = 1000  # images that the held-out loss is a mean over


class ImageRun:
    """One training run on one set of images.

    Everything a user can get wrong is checked in the constructor, which writes nothing but the cache of decoded images.
    `train` trains, logs, draws grids and checkpoints; Ctrl-C ends it after the current step with a checkpoint.
    """

    def __init__(self, config: ImageConfig, say: Callable[[str], None] = tqdm.write) -> None:
        self.config, self.say, self.folder = config, say, Path(config.output_dir)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_device(config.device)
        check_output_dir(config.output_dir, config.resume, config.overwrite, find_run)
        self.images = read_images(config)
        self.model = build_model(config, self.images.shape)
        self.model.flow.to(torch.device(config.device))
        assert isinstance(self.model.flow, LocalFlow)
        self.flow = self.model.flow
        self._interruption = Interruption()
        self.pending: list[StepReport] = []
        self.fitter = self._fitter()
        if config.resume:
            self._resume()

    @property
    def done(self) -> bool:
        """Whether every sub-flow has been trained."""
        return self.fitter.done

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self._interruption.asked

    def train(self) -> Path:
        """Train to the end (or `stop_after`, or Ctrl-C); the pipeline's folder, or the newest checkpoint's."""
        config = self.config
        prepare_folder(self.folder, config.to_dict(), config.overwrite, PARTS)
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        every = config.training
        try:
            checkpoint = train(
                self.fitter,
                self.folder,
                self._interruption,
                self.save,
                self.pending,
                self._tell,
                every.log_every,
                every.checkpoint_every,
                config.stop_after,
                self._after_step,
                lambda: self.fitter.stage_done,
            )
        except LFMError:
            leave_nothing(self.folder, PARTS)
            raise
        if not self.done:
            return checkpoint
        remove_parts(self.folder, (PUSHED,))
        return replace_pipeline(self.pipeline(), self.folder / PIPELINE)

    def pipeline(self) -> LFMPipeline:
        """The flow as it is now."""
        return LFMPipeline(self.model, **asdict(self.config.sampler))

    def save(self) -> Path:
        """A checkpoint: the pipeline's folder with image.json and the training state."""
        step = self.fitter.steps_done
        state = {"fitter": self.fitter.state_dict(), "pending": [tuple(report) for report in self.pending]}
        description = {
            "format": FORMAT,
            "type": TYPE,
            "step": step,
            "trained": self.done,
            "images": {"name": self.images.name, "source": self.images.source, **self.images.identity},
            "config": self.config.to_dict(),
            "versions": versions(),
        }

        def write(folder: Path) -> None:
            self.pipeline().save_pretrained(folder)
            (folder / IMAGE_FILE).write_text(json.dumps(description, indent=2) + "\n")

        return save_checkpoint(self.folder, step, state, write)

    def _fitter(self) -> Fitter:
        config, n = self.config, self.config.flow.n_subflows
        source = ImageSource(self.images.train, config.data.flips)
        held = first(self.images.test, HELD_OUT)
        options = fit_options(config.training, config.flow, len(source))
        if options.matching.marginals != "pushed" or n == 1 or self.flow.shares_weights:
            return Fitter(self.flow, source, options, config.seed, ImageSource(held))
        elements = math.prod(self.images.shape)
        if not config.resume:  # what a resumed run still has to push may be on disk already
            check_space(self.folder, bytes_needed((len(source), len(held)), elements, n))
        store = DiskStore(self.folder / PUSHED, lambda: self._interruption.asked)
        return Fitter(self.flow, source, options, config.seed, ImageSource(held), keep=store)

    def _tell(self, reports: list[StepReport]) -> tuple[str, dict[str, Any]]:
        report = reports[-1]
        loss = sum(entry.loss for entry in reports) / len(reports)
        where = f"sub-flow {report.n} of {self.flow.n_subflows}" if report.n else "all stretches together"
        entry = {"subflow": report.n, "subflow_step": report.step, "loss": loss, "lr": report.learning_rate}
        return f"{where}, loss {loss:.4f}", entry

    def _after_step(self, report: StepReport, log: Any) -> bool:
        """Held-out loss and a grid where it is time; whether the sub-flow is over."""
        config, over = self.config, self.fitter.stage_done
        if report.step % config.training.valid_every == 0 or over:
            log.write(self.fitter.steps_done, subflow=report.n, valid_loss=self.fitter.held_out_loss())
        if config.samples.n and (report.step % config.samples.every == 0 or over):
            self._draw(report)
        return over

    def _draw(self, report: StepReport) -> None:
        held = ImageSource(self.images.test).batch(torch.arange(min(self.config.samples.n, len(self.images.test))))[0]
        seen = samples_so_far(self.flow, held.to(self.config.device), report.n, self.config)
        name = f"subflow_{report.n}" if report.n else "all"
        save_grid(self.folder / SAMPLES / f"{name}_step_{report.step}.png", to_pixels(seen).cpu())

    def _resume(self) -> None:
        folder = find_run(self.folder)
        description = read_description(folder / IMAGE_FILE, TYPE, FORMAT, "image flow")
        check_unchanged(folder, self.config.differences(description["config"]))
        if description["images"]["sha256"] != self.images.identity["sha256"]:
            raise LFMError(
                f"data: {self.images.source} is not what {folder} was trained on; give that set, or start anew"
            )
        load_modules(folder / WEIGHTS, {"": self.model})
        state = load_training_state(folder)
        self.fitter.load_state_dict(state["fitter"])
        self.pending = [StepReport(*report) for report in state["pending"]]
        self.say(f"resumed at step {self.fitter.steps_done} of {self.fitter.total_steps}")


def find_run(path: Path) -> Path:
    """The newest checkpoint in a run's folder."""
    return find_folder(path, IMAGE_FILE)


def read_images(config: ImageConfig) -> Images:
    """The set that a config names, with a bar while its files are decoded."""
    with progress_bar("reading images", None, unit="image") as bar:
        return load_images(config.data, config.seed, bar.update)


def build_model(config: ImageConfig, shape: tuple[int, int, int]) -> LocalFlowModel:
    """The untrained model of a run on images of `shape`."""
    return new_model(shape, config.network, config.schedule(), config.flow.share_weights, seed=config.seed)


def first(images: ImageSet, count: int) -> ImageSet:
    """The first so many images of a part."""
    labels = None if images.labels is None else images.labels[:count]
    return ImageSet(images.pixels[:count], labels, images.classes)


@torch.no_grad()
def samples_so_far(flow: LocalFlow, x: Tensor, n: int, config: ImageConfig) -> Tensor:
    """What the sub-flows up to n make of p_n's own samples: images x (B, C, H, W), diffused to p_n and pulled back.

    With all of them trained p_N is noise, and these are samples.
    """
    if n == WHOLE_CLOCK:
        flow, n = LocalFlow([flow.field(1)], flow.schedule), flow.n_subflows
    generator = named_generator(config.seed, "grid", n)
    diffused = ou_transition(x, flow.schedule.times[n], generator)
    return flow.pull(diffused, None, config.sampler, range(n, 0, -1))
