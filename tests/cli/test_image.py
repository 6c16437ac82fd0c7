"""`lfm image`: from a config to a pipeline, students, grids and figures; errors of one line."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lfm_policy.cli.image import _config, _parser
from lfm_policy.cli.main import main
from lfm_policy.data.images import ImageDataConfig, load_images
from lfm_policy.image import run as run_module
from lfm_policy.image.classifier import ClassifierOptions, save_classifier, train_classifier
from lfm_policy.image.config import ImageConfig
from lfm_policy.image.generation import generate, load_pipeline
from lfm_policy.image.model import evaluation_macs
from lfm_policy.image.pipeline import LFMPipeline
from lfm_policy.image.run import build_model
from tests.image.runs import tiny_model

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "configs" / "image").glob("*.yaml"))
SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet32": (3, 32, 32)}
TINY = ["--data.n_train", "40", "--data.n_test", "12", "--network.channels", "[8,8]", "--network.n_groups", "4"]
TINY += ["--network.layers_per_block", "1", "--training.steps", "3", "--training.batch_size", "8", "--threads", "1"]
TINY += ["--flow.n_subflows", "2", "--flow.push_steps", "1", "--distillation.steps", "2", "--samples.n", "0"]


def lfm(*words: str | Path) -> int:
    return main(["image", *map(str, words)])


def parse(*words: str) -> ImageConfig:
    parser = _parser("lfm image train", "")
    values = parser.instantiate(parser.parse_args([*words, "--output_dir", "out"])).as_dict()
    values.pop("config")
    return _config(values)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_builds_its_model(file: Path) -> None:
    config = parse("--config", str(file))
    shape = SHAPES.get(file.stem) or (config.data.channels, config.data.size, config.data.size)
    with torch.device("meta"):
        model = build_model(config, shape)
    assert model.flow.n_subflows == config.flow.n_subflows
    assert model.flow.field(1).stride <= shape[1]


def test_from_a_config_to_students_grids_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--config", "configs/image/digits.yaml", "--output_dir", tmp_path / "run", *TINY]
    assert lfm("train", *run) == 0
    assert lfm("distill", *run) == 0
    assert lfm("classifier", *run, "--out", tmp_path / "c.safetensors", "--steps", "5") == 0
    way = tmp_path / "way.png"
    sample = ["--out", tmp_path / "grid.png", "--n", "5", "--seed", "1", "--trajectory", way, "--rows", "3"]
    assert lfm("sample", tmp_path / "run", *sample) == 0
    for pipeline in (tmp_path / "run", tmp_path / "run" / "distilled_2"):
        place = ["--pipeline", pipeline, "--features", tmp_path / "c.safetensors", "--n", "20"]
        assert lfm("evaluate", *run, *place) == 0
    assert lfm("evaluate", *run, *place, "--seed", "1") == 2  # another split: what was trained on would be tested on
    assert lfm("evaluate", *run, *place, "--sample_seed", "1", "--json", tmp_path / "other.json") == 0
    told = capsys.readouterr()
    assert "images of training would count as test" in told.err
    assert "40 images to train on, 12 held out, 8 x 8 x 1" in told.out
    assert "Fréchet" in told.out

    pipe = load_pipeline(tmp_path / "run")
    grid = np.array(Image.open(tmp_path / "grid.png"))
    factor = grid.shape[0] // (2 * 10 + 2)  # two rows of 8 pixels and the gaps of 2
    second = grid[::factor, ::factor][2:10, 12:20]
    assert np.array_equal(second, generate(pipe, 5, 1)[1, 0].numpy())
    assert Image.open(way).size[0] > Image.open(way).size[1]  # five moments of each of three

    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["nfe"] == 8
    assert figures["multiply_adds"] == 8 * evaluation_macs(pipe.flow)
    assert figures["drawn"]["n_real"] == 12
    assert figures["drawn"]["n_fake"] == 20
    assert math.isfinite(figures["drawn"]["frechet_distance"])
    assert len(figures["drawn"]["features_sha256"]) == 64
    assert figures["images"]["split"] == "test"
    of_students = json.loads((tmp_path / "run" / "distilled_2" / "evaluation.json").read_text())
    other = json.loads((tmp_path / "other.json").read_text())
    assert of_students["nfe"] == other["nfe"] == 2
    assert (of_students["seeds"], other["seeds"]) == ([0], [1])
    assert of_students["floor"] == other["floor"]
    assert of_students["drawn"]["frechet_distance"] != other["drawn"]["frechet_distance"]


def test_ctrl_c_leaves_a_checkpoint_that_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", "--config", "configs/image/digits.yaml", "--output_dir", tmp_path / "run", *TINY]
    run += ["--samples.n", "4", "--samples.every", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_grid", lambda *_: signal.raise_signal(signal.SIGINT))
        assert lfm(*run) == 130
    assert "continue with --resume true" in capsys.readouterr().out
    assert (tmp_path / "run/checkpoints/step_2/model_index.json").is_file()
    assert LFMPipeline.from_pretrained(tmp_path / "run/checkpoints/step_2").flow.shape == (1, 8, 8)
    assert lfm(*run, "--resume", "true") == 0
    assert (tmp_path / "run/pipeline").is_dir()
    assert (tmp_path / "run/samples.png").is_file()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    LFMPipeline(tiny_model()).save_pretrained(folder / "pipeline")
    digits = load_images(ImageDataConfig("digits", n_train=40, n_test=12))
    save_classifier(train_classifier(digits, ClassifierOptions(steps=1, width=8)), folder / "c.safetensors")
    Image.new("L", (8, 8)).save(folder / "exists.png")
    (folder / "images").mkdir()
    for i in range(6):
        Image.new("L", (12, 12), i).save(folder / "images" / f"{i}.png")
    return {"folder": folder, "pipeline": folder / "pipeline", "features": folder / "c.safetensors"}


WRONG: dict[str, tuple[str, str]] = {
    "action": ("draw", "lfm image: has no action 'draw'; there are train, distill, sample, classifier, evaluate"),
    "field": ("train --output_dir {folder}/x --training.step 3", "did you mean 'training.steps'?"),
    "data": ("train --output_dir {folder}/x --data.name digit", "did you mean 'digits'?"),
    "value": ("train --output_dir {folder}/x --distillation.steps 0", "distillation.steps: 0 must be positive"),
    "used": ("train --output_dir {folder}", "choose another, or add --resume true or --overwrite true"),
    "nothing": ("train --output_dir {folder}/x --resume true", "does not exist"),
    "teacher": ("distill --output_dir {folder}/x", "{folder}/x: is no folder; give a pipeline"),
    "pipeline": ("sample {folder}/images --out {folder}/new.png", "model_index.json is missing"),
    "exists": ("sample {pipeline} --out {folder}/exists.png", "exists already"),
    "suffix": ("sample {pipeline} --out {folder}/new.jpg", "must end in .png"),
    "count": ("sample {pipeline} --out {folder}/new.png --n 0", "--n 0: must be 1 or more"),
    "method": ("sample {pipeline} --out {folder}/new.png --method eular", "sampler.method: 'eular' is not one of"),
    "shape": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --data.name folder --data.path "
        "{folder}/images --data.test_fraction 0.5 --data.cache_dir {folder}/cache",
        "images are 1x12x12, those of {pipeline} 1x8x8",
    ),
    "features": ("evaluate --output_dir {folder} --pipeline {pipeline} --features {folder}/none", "does not exist"),
    "few": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --n 1",
        "--n 1: must be 5 or more",
    ),
    "where": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --json {folder}/none/x.json",
        "create it first",
    ),
    "kept": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --json {folder}/exists.png",
        "exists already",
    ),
    "device": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --device abacus",
        "device: 'abacus'",
    ),
    "noise": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --sample_seed -1",
        "--sample_seed -1: must be 0 or more",
    ),
    "no batch": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --batch_size 0",
        "--batch_size 0: must be 1 or more",
    ),
    "few real": (
        "evaluate --output_dir {folder} --pipeline {pipeline} --features {features} --n 9 --data.n_test 3",
        "data: holds 3 test images; 5 or more are needed",
    ),
    "norm": ("train --output_dir {folder}/x --training.max_grad_norm -1", "max_grad_norm: -1.0 must be positive"),
    "decay": ("distill --output_dir {folder}/x --distillation.weight_decay -1", "weight_decay: -1.0 must be 0 or more"),
    "layers": ("train --output_dir {folder}/x --network.layers_per_block 0", "network.layers_per_block: 0 must be 1"),
    "push": ("train --output_dir {folder}/x --flow.push_steps 0", "flow.push_steps: 0 must be 1 or more"),
    "steps": ("sample {pipeline} --out {folder}/new.png --steps 0", "sampler.steps: 0 must be at least 1"),
    "tolerance": ("train --output_dir {folder}/x --sampler.rtol -1", "sampler.rtol: -1.0 must be positive"),
    "output": ("classifier --output_dir {folder}/x --out {folder}/c.pt", "must end in .safetensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_left(
    name: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, told = WRONG[name]
    before = sorted(path for path in places["folder"].rglob("*") if "cache" not in path.parts)
    assert lfm(*command.format(**places).split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert told.format(**places) in err
    assert out == ""
    assert sorted(path for path in places["folder"].rglob("*") if "cache" not in path.parts) == before
