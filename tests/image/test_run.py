"""`ImageRun`: what it leaves behind, and that a broken run continues bit for bit, across sub-flows and pushes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lfm_policy.data.images import ImageDataConfig, ImageSource, load_images
from lfm_policy.flow import FitOptions, Fitter, LFMError, Solver
from lfm_policy.flow.fit import in_memory
from lfm_policy.image import run as run_module
from lfm_policy.image.generation import load_pipeline
from lfm_policy.image.model import new_model
from lfm_policy.image.run import ImageRun, build_model, samples_so_far
from lfm_policy.training.checkpoint import load_training_state
from lfm_policy.training.config import FlowConfig
from tests.image.runs import EXACT, PUSHED, TINY, assert_equal, small_config, trained, weights

FLOWS = {
    "pushed": PUSHED,
    "exact": EXACT,
    "shared weights": FlowConfig(n_subflows=2, share_weights=True),
    "one": FlowConfig(n_subflows=1),
}
every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def kept_state(folder: Path) -> list[torch.Tensor]:
    """Optimiser and training weights of the newest checkpoint."""
    (checkpoint,) = (folder / "checkpoints").glob("step_*")
    fitter = load_training_state(checkpoint)["fitter"]
    moments = [value for entry in fitter["optimizer"]["state"].values() for value in entry.values()]
    return [*fitter["network"].values(), *moments]


@every_flow
def test_a_run_broken_off_anywhere_ends_like_a_whole_one(flow: FlowConfig, tmp_path: Path) -> None:
    """Stopped after every 3 steps: within sub-flows of 4, at a boundary, and with a push just before or after."""
    whole = trained(small_config(tmp_path / "whole", flow))
    broken = trained(small_config(tmp_path / "broken", flow, stop_after=3))
    while not broken.done:
        before = broken.fitter.steps_done
        broken = trained(small_config(tmp_path / "broken", flow, stop_after=3, resume=True))
        assert before < broken.fitter.steps_done <= before + 3
    assert_equal(weights(whole.model), weights(broken.model))
    assert_equal(kept_state(tmp_path / "whole"), kept_state(tmp_path / "broken"))
    assert entries(tmp_path / "whole") == entries(tmp_path / "broken")
    pixels = [(tmp_path / name / "samples").glob("*.png") for name in ("whole", "broken")]
    grids = [{path.name: np.array(Image.open(path)).tolist() for path in paths} for paths in pixels]
    assert grids[0] == grids[1]
    assert len(grids[0]) >= 2


def test_a_stop_between_two_pieces_of_a_push_loses_nothing(tmp_path: Path) -> None:
    """The signal comes while the samples of p_2 are being made; they are gone on with, and the end is the same."""
    whole = trained(small_config(tmp_path / "whole"))
    broken = ImageRun(small_config(tmp_path / "broken"))
    store = broken.fitter._keep
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == 8:  # 5 + 1 pieces of p_1, and the second of p_2
            broken._interruption.asked = True
        return broken._interruption.asked

    store.asked_to_stop = stop  # type: ignore[attr-defined]
    broken.train()
    assert broken.interrupted
    assert not broken.done
    assert broken.fitter.steps_done == 8
    assert json.loads((tmp_path / "broken/pushed/train_2.json").read_text())["pieces"] == 1

    resumed = trained(small_config(tmp_path / "broken", resume=True))
    assert resumed.done
    assert_equal(weights(whole.model), weights(resumed.model))
    assert entries(tmp_path / "whole") == entries(tmp_path / "broken")
    assert not (tmp_path / "broken/pushed").exists()


def test_a_run_is_algorithm_1_of_the_flow_core(tmp_path: Path) -> None:
    """The same weights come from `Fitter` alone, with samples in memory: there is no second implementation."""
    config = small_config(tmp_path / "run")
    run = trained(config)
    images = load_images(config.data, config.seed)
    model = new_model(images.shape, TINY, config.schedule(), seed=config.seed)
    options = FitOptions(
        steps=4, batch_size=8, learning_rate=1e-2, warmup_steps=1, push_solver=Solver("midpoint", 1), push_batch_size=16
    )
    fitter = Fitter(model.flow, ImageSource(images.train, True), options, config.seed, keep=in_memory)
    while not fitter.done:
        fitter.step()
    assert_equal(weights(run.model), weights(model))


def test_a_finished_run_leaves_a_pipeline_and_grids_and_no_pushed_samples(tmp_path: Path) -> None:
    run = trained(small_config(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "pipeline",
        "samples",
        "tensorboard",
    ]
    assert_equal(weights(run.model), weights(load_pipeline(tmp_path).flow))
    grids = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert grids == [f"subflow_{n}_step_{step}.png" for n in (1, 2, 3) for step in (3, 4)]


def test_grids_of_the_last_subflow_are_samples_from_noise(tmp_path: Path) -> None:
    """They do not depend on the images that earlier grids start from."""
    config = small_config(tmp_path)
    flow = build_model(config, (1, 8, 8)).flow
    x, y = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    assert torch.equal(samples_so_far(flow, x, 3, config), samples_so_far(flow, y, 3, config))
    assert not torch.equal(samples_so_far(flow, x, 2, config), samples_so_far(flow, y, 2, config))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 4}, "seed: was 3, now 4"),
        ({"data": ImageDataConfig("digits", n_train=41, n_test=12, flips=True)}, "data.n_train: was 40, now 41"),
        ({"network": replace(TINY, channels=(8, 12))}, "network.channels: was [8, 8], now [8, 12]"),
        ({"flow": replace(PUSHED, c=0.2)}, "flow.c: was 0.15, now 0.2"),
    ],
)
def test_another_config_is_refused_for_resuming(change: dict, told: str, tmp_path: Path) -> None:
    trained(small_config(tmp_path, stop_after=1))
    with pytest.raises(LFMError, match="cannot resume with another config") as error:
        ImageRun(small_config(tmp_path, resume=True, **change))
    assert told in str(error.value)


def test_too_little_disk_for_the_push_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 mirrored images and 12 held out, of 64 pixels, twice, in float32."""
    needed = (80 + 12) * 64 * 4 * 2
    for free, fits in ((needed, True), (needed - 1, False)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("lfm_policy.image.pushed.shutil.disk_usage", lambda path, usage=usage: usage)
        if fits:
            ImageRun(small_config(tmp_path / "run"))
            continue
        with pytest.raises(LFMError, match=r"^output_dir: pushed samples take .* GB and .* GB free; .*exact"):
            ImageRun(small_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(run_module, "check_space", pytest.fail)
    ImageRun(small_config(tmp_path / "run", EXACT))  # pushes nothing, needs nothing


def test_a_loss_that_is_not_finite_leaves_nothing_behind(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run")
    with pytest.raises(LFMError, match="loss of sub-flow 1 is"):
        trained(replace(config, training=replace(config.training, learning_rate=1e30, steps=50)))
    assert not (tmp_path / "run").exists()


def test_sizes_that_the_network_cannot_halve_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(LFMError, match=r"^data.size: sides of 8 x 8 are not divisible by 16"):
        ImageRun(small_config(tmp_path, network=replace(TINY, channels=(8, 8, 8, 8, 8))))
