"""`LFMPipeline`: image flows as diffusers' users load and call them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lfm_policy.flow import DistilledFlow, LFMError, Solver
from lfm_policy.flow.solver import MethodName
from lfm_policy.image.model import LocalFlowModel

INDEX, COMPONENT = "model_index.json", "flow"
WEIGHTS = f"{COMPONENT}/diffusion_pytorch_model.safetensors"
PARTS = (INDEX, f"{COMPONENT}/config.json", WEIGHTS)


class LFMPipeline(DiffusionPipeline):
    """Unconditional images from noise, by a chain of sub-flows or by its students.

    >>> pipe = LFMPipeline.from_pretrained("runs/digits/pipeline")  # doctest: +SKIP
    >>> images = pipe(batch_size=16, generator=torch.Generator().manual_seed(0)).images  # doctest: +SKIP

    Args:
        flow: the model.
        method: solver of each sub-flow; students need none.
        steps: its steps per sub-flow.
        rtol: relative tolerance of an adaptive one.
        atol: its absolute tolerance.
        max_evaluations: of the network in a sub-flow, by an adaptive one.
    """

    flow: LocalFlowModel

    def __init__(
        self,
        flow: LocalFlowModel,
        method: str = "midpoint",
        steps: int = 2,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_evaluations: int = 10_000,
    ) -> None:
        super().__init__()
        self.register_modules(flow=flow.eval())
        self.register_to_config(method=method, steps=steps, rtol=rtol, atol=atol, max_evaluations=max_evaluations)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> LFMPipeline:
        """A pipeline that `save_pretrained` wrote; LFMError where a part of the folder is missing or damaged."""
        if Path(pretrained_model_name_or_path).exists():
            check_folder(Path(pretrained_model_name_or_path))
            kwargs.setdefault("low_cpu_mem_usage", False)  # True would ask for the package accelerate
        return super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)

    def solver(self, method: MethodName | None = None, steps: int | None = None) -> Solver | None:
        """The pipeline's solver, with another method or number of steps if asked for; None for students."""
        if isinstance(self.flow.flow, DistilledFlow):
            if method is not None or steps is not None:
                raise LFMError("sampler: students take one evaluation each; leave method and steps out")
            return None
        given = {"method": method, "steps": steps}
        own = {entry.name: self.config[entry.name] for entry in fields(Solver)}
        return Solver(**{**own, **{name: value for name, value in given.items() if value is not None}})

    def nfe(self, method: MethodName | None = None, steps: int | None = None) -> int | None:
        """Network evaluations of a sample; None where a tolerance decides."""
        solver, chain = self.solver(method, steps), self.flow.flow
        if isinstance(chain, DistilledFlow):
            return chain.nfe
        assert solver is not None
        return None if solver.evaluations is None else solver.evaluations * chain.n_subflows

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        method: MethodName | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            batch_size: how many.
            generator: of the noise; a list of them has one for each image.
            num_inference_steps: solver steps per sub-flow, instead of the pipeline's.
            method: solver, instead of the pipeline's.
            output_type: `pil`; `np`: (B, H, W, C) in [0, 1]; `pt`: (B, C, H, W) in [-1, 1].
            return_dict: an `ImagePipelineOutput`; else a tuple.
        """
        noise = randn_tensor((batch_size, *self.flow.shape), generator, self.flow.device, self.flow.dtype)
        x = self.pull(noise, self.solver(method, num_inference_steps))
        images: Any = x
        if output_type in ("pil", "np"):
            images = to_numpy(x)
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def pull(self, x: Tensor, solver: Solver | None) -> Tensor:
        """Noise (B, C, H, W) to images through one sub-flow, or student, after the other."""
        chain = self.flow.flow
        if isinstance(chain, DistilledFlow):
            for n in self.progress_bar(range(1, chain.n_students + 1)):
                x = chain.pull(x, students=[n])
            return x
        for n in self.progress_bar(range(chain.n_subflows, 0, -1)):
            x = chain.pull(x, None, solver, [n])
        return x


def replace_pipeline(pipe: LFMPipeline, folder: Path) -> Path:
    """Save a pipeline under a temporary name and rename it: a crash leaves none, the old one or the new one, whole."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        pipe.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise LFMError(f"{folder}: cannot be written ({error.strerror or error}); free space and resume") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def to_numpy(x: Tensor) -> Any:
    """Images (B, C, H, W) in [-1, 1] as float arrays (B, H, W, C) in [0, 1]."""
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def check_folder(folder: Path) -> None:
    """Raise LFMError where a pipeline's folder lacks a part, or weights that its configuration asks for.

    diffusers itself would draw missing weights at random.
    """
    for part in PARTS:
        if not (folder / part).is_file():
            raise LFMError(f"{folder}: no pipeline, {part} is missing; save it again with save_pretrained")
    try:
        index = json.loads((folder / INDEX).read_text())
        config = json.loads((folder / COMPONENT / "config.json").read_text())
        asked = {name for name in config if not name.startswith("_")}
        with torch.device("meta"):
            wanted = LocalFlowModel(**{name: config[name] for name in asked}).state_dict()
    except (ValueError, KeyError, TypeError, OSError) as error:
        cause = str(error).splitlines()[0]
        raise LFMError(f"{folder}: its JSON files describe no image flow ({cause}); save it again") from error
    if index.get("_class_name") != LFMPipeline.__name__:
        raise LFMError(f"{folder / INDEX}: is a {index.get('_class_name')}, not an LFMPipeline; give another folder")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LFMError(f"{folder / WEIGHTS}: cannot be read ({error}); save it again") from error
    wrong = [name for name in wanted if found.get(name) != tuple(wanted[name].shape)]
    if wrong:
        state = "has another shape" if wrong[0] in found else "is missing"
        raise LFMError(f"{folder / WEIGHTS}: tensor {wrong[0]} {state}; save the pipeline again")
