"""`LFMPipeline`: diffusers' calls, the same images in a fresh process, and folders that are not whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lfm_policy.data.images import to_pixels
from lfm_policy.flow import LFMError, Solver
from lfm_policy.image.generation import load_pipeline
from lfm_policy.image.model import UNet2dConfig, count_parameters, evaluation_macs, new_model
from lfm_policy.image.pipeline import PARTS, WEIGHTS, LFMPipeline, replace_pipeline
from tests.image.runs import TINY, assert_equal, tiny_model, weights

SHAPE = (1, 8, 8)


def quiet(pipe: LFMPipeline) -> LFMPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LFMPipeline(tiny_model(), "heun", 3).save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


KINDS = {
    "chain": lambda: tiny_model(),
    "shared": lambda: tiny_model(share=True),
    "students": lambda: tiny_model(3),
    "one": lambda: tiny_model(gammas=()),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def test_a_fresh_process_draws_the_same_images(tmp_path: Path) -> None:
    """A script that imports diffusers, torch and the pipeline only."""
    script = """
import sys
from pathlib import Path
import torch
import diffusers
from lfm_policy.image import LFMPipeline

for folder in sorted(Path(sys.argv[1]).iterdir()):
    pipe = LFMPipeline.from_pretrained(folder)
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    for i, image in enumerate(pipe(batch_size=3, generator=torch.Generator().manual_seed(0)).images):
        image.save(folder / f"{i}.png")
"""
    drawn = {}
    for kind, make in KINDS.items():
        pipe = quiet(LFMPipeline(make(), "midpoint", 1))
        pipe.save_pretrained(tmp_path / kind)
        drawn[kind] = pipe(batch_size=3, generator=generator()).images
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind, images in drawn.items():
        for i, image in enumerate(images):
            assert np.array_equal(np.array(image), np.array(Image.open(tmp_path / kind / f"{i}.png")))
            assert (image.mode, image.size) == ("L", (8, 8))


@every_kind
def test_saved_and_loaded_weights_and_settings_are_the_same(kind: str, tmp_path: Path) -> None:
    pipe = LFMPipeline(KINDS[kind](), "rk4", 5)
    pipe.save_pretrained(tmp_path)
    loaded = LFMPipeline.from_pretrained(tmp_path)
    assert_equal(weights(pipe.flow), weights(loaded.flow))
    assert loaded.nfe() == pipe.nfe()
    assert dict(loaded.config)["method"] == "rk4"
    assert loaded.flow.shape == SHAPE
    assert loaded.flow.flow.schedule == pipe.flow.flow.schedule


def test_images_are_the_flow_s_own_pull_of_the_generator_s_noise() -> None:
    model = tiny_model()
    pipe = quiet(LFMPipeline(model, "midpoint", 2))
    noise = torch.randn(4, *SHAPE, generator=generator(7))
    for solver, asked in (
        (Solver("midpoint", 2), {}),
        (Solver("euler", 3), {"method": "euler", "num_inference_steps": 3}),
    ):
        with torch.no_grad():
            wanted = model.flow.pull(noise, None, solver)
        drawn = pipe(4, generator(7), output_type="pt", **asked).images
        assert torch.equal(drawn, wanted)
    arrays = pipe(4, generator(7), output_type="np").images
    assert arrays.shape == (4, 8, 8, 1)
    assert np.array_equal(
        (arrays * 255).round().astype(np.uint8)[..., 0], to_pixels(pipe(4, generator(7), output_type="pt").images)[:, 0]
    )
    (tuple_images,) = pipe(4, generator(7), return_dict=False)
    assert [np.array(image).tolist() for image in tuple_images] == (arrays[..., 0] * 255).round().astype(int).tolist()


def test_a_list_of_generators_gives_each_image_its_own() -> None:
    pipe = quiet(LFMPipeline(tiny_model(), steps=1))
    both = pipe(2, [generator(1), generator(2)], output_type="pt").images
    assert torch.allclose(both[1:], pipe(1, generator(2), output_type="pt").images, atol=1e-5)


def test_students_draw_by_one_evaluation_each_and_take_no_solver() -> None:
    model = tiny_model(3)
    pipe = quiet(LFMPipeline(model))
    noise = torch.randn(2, *SHAPE, generator=generator())
    with torch.no_grad():
        assert torch.equal(pipe(2, generator(), output_type="pt").images, model.flow.pull(noise))
    assert pipe.nfe() == 3
    with pytest.raises(LFMError, match="students take one evaluation each"):
        pipe(2, num_inference_steps=4)


def test_a_saved_pipeline_solves_as_it_did(tmp_path: Path) -> None:
    """With every setting of its solver, an adaptive one's tolerances among them."""
    LFMPipeline(tiny_model(), "dopri5", 3, rtol=1e-2, atol=1e-3, max_evaluations=70).save_pretrained(tmp_path)
    pipe = LFMPipeline.from_pretrained(tmp_path)
    assert pipe.solver() == Solver("dopri5", 3, rtol=1e-2, atol=1e-3, max_evaluations=70)
    assert pipe.solver("euler", 5) == Solver("euler", 5, rtol=1e-2, atol=1e-3, max_evaluations=70)
    with pytest.raises(LFMError, match=r"sampler\.steps: 0 must be at least 1"):
        pipe(1, num_inference_steps=0)


def test_evaluations_are_counted_as_they_are_made() -> None:
    model = tiny_model()
    calls: list[int] = []
    for field in model.flow.fields:
        field.register_forward_hook(lambda *_: calls.append(1))
    for method, steps in (("euler", 1), ("midpoint", 2), ("rk4", 3)):
        calls.clear()
        pipe = quiet(LFMPipeline(model, method, steps))
        pipe(1)
        assert len(calls) == pipe.nfe()


def test_a_crash_while_saving_leaves_the_old_pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def half(self: LFMPipeline, place: Path) -> None:
        place.mkdir()
        (place / "model_index.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LFMPipeline, "save_pretrained", half)
    with pytest.raises(LFMError, match=r"cannot be written \(No space left on device\); free space and resume"):
        replace_pipeline(LFMPipeline(tiny_model(3)), folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(part: str, folder: Path) -> None:
    (folder / part).unlink()
    for load in (LFMPipeline.from_pretrained, load_pipeline):
        with pytest.raises(LFMError, match=f"no pipeline, {part} is missing"):
            load(folder)


def test_missing_and_misshapen_tensors_are_named_instead_of_drawn_anew(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(LFMError, match=f"tensor {name} is missing"):
        LFMPipeline.from_pretrained(folder)
    save_file({**tensors, name: torch.zeros(3)}, folder / WEIGHTS)
    with pytest.raises(LFMError, match=f"tensor {name} has another shape"):
        LFMPipeline.from_pretrained(folder)


def test_damaged_files_and_other_pipelines_are_one_error(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for name, text, told in (
        ("model_index.json", "{", "describe no image flow"),
        ("model_index.json", json.dumps({**index, "_class_name": "DDPMPipeline"}), "is a DDPMPipeline"),
        ("flow/config.json", '{"shape": [1, 8, 8]}', "describe no image flow"),
        (WEIGHTS, "", "cannot be read"),
    ):
        other = tmp_path / "other"
        shutil.copytree(folder, other)
        (other / name).write_text(text)
        with pytest.raises(LFMError, match=told) as error:
            LFMPipeline.from_pretrained(other)
        assert "\n" not in str(error.value)
        shutil.rmtree(other)


def test_multiply_adds_and_weights_are_those_of_the_layers() -> None:
    """Against a sum over convolutions and linear layers by hand, and attention's two products."""
    config = UNet2dConfig(channels=(8, 16), layers_per_block=1, attention=(1,), head_dim=8, n_groups=4)
    model = new_model(SHAPE, config, tiny_model(gammas=()).flow.schedule)
    macs = 0

    def count(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.no_grad():
        model.flow.field(1)(torch.zeros(1, *SHAPE), torch.zeros(1))
    for hook in hooks:
        hook.remove()
    attentions = 1 + 1 + 2  # one block down, the middle, two blocks up; 4 x 4 tokens of 16 channels
    assert evaluation_macs(model) == macs + attentions * 2 * 16 * 16 * 16
    assert count_parameters(model) == sum(p.numel() for p in model.flow.field(1).parameters())


def test_weights_are_a_function_of_the_seed() -> None:
    schedule = tiny_model().flow.schedule
    one, same, other = (new_model(SHAPE, TINY, schedule, seed=seed) for seed in (1, 1, 2))
    assert_equal(weights(one), weights(same))
    assert not torch.equal(weights(one)[0], weights(other)[0])
