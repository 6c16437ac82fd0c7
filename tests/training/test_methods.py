"""Every method: trained, saved, loaded in a fresh process; and what an equal budget means."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from lfm_policy.cli.train import parse
from lfm_policy.flow import LFMError, LocalFlow, Schedule
from lfm_policy.flow.stages import plan_stages
from lfm_policy.nets import UNet1d
from lfm_policy.policy import DiffusionSettings, MIPSettings, load_policy
from lfm_policy.training import TrainConfig
from lfm_policy.training.methods import METHODS, MethodName
from tests.training.runs import small_config, small_dataset, train

FRESH = """
import sys, numpy as np, torch
from lfm_policy import load_policy
policy = load_policy(sys.argv[1])
obs = {key: np.full((2, policy.spec.n_obs_steps, dim), 0.1) for key, dim in policy.spec.observation}
np.save(sys.argv[2], policy.predict_action(obs, torch.Generator().manual_seed(0)).numpy())
"""


SCHEDULES = {1: Schedule(), 4: Schedule.geometric(4, 0.15, 1.25)}


def config_of(method: str, data: Path, run: Path, flow: dict[str, object] | None = None) -> TrainConfig:
    return small_config(data, run, flow, method=method, global_channels=(16, 32))


def test_the_command_knows_every_method() -> None:
    assert set(get_args(MethodName)) == set(METHODS)


def test_objectives_have_the_configs_settings(tmp_path: Path) -> None:
    """What is learned is for the sampler that acts; both read the same fields."""
    config = config_of("mip", small_dataset(tmp_path / "data.hdf5"), tmp_path / "run")
    mip = replace(config, mip=MIPSettings(0.75, 2.0))
    assert METHODS["mip"].objective(mip).settings == mip.mip  # type: ignore[attr-defined]
    settings = DiffusionSettings(n_levels=50, steps=5)
    diffusion = replace(config, method="diffusion", diffusion=settings)
    assert METHODS["diffusion"].objective(diffusion).settings == settings  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_method_acts_alike_in_a_fresh_process(method: str, tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    folder = train(config_of(method, data, tmp_path / "run"))
    policy = load_policy(folder)
    obs = {key: np.full((2, policy.spec.n_obs_steps, dim), 0.1) for key, dim in policy.spec.observation}
    here = policy.predict_action(obs, torch.Generator().manual_seed(0)).numpy()
    subprocess.run([sys.executable, "-c", FRESH, str(folder), str(tmp_path / "there.npy")], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), here)
    assert np.isfinite(here).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_the_arithmetic_of_lfm(method: str) -> None:
    """Updates times weights updated, at Table A.3's widths, where four sub-flows are as large as one network."""
    arguments = ["--config", "configs/robomimic/lift.yaml", "--output_dir", "run", "--data.path", "file.hdf5"]
    arguments += ["--training.steps", "1000", "--training.epochs", "null", "--method", method]
    arguments += ["--flow.marginals", "exact", "--flow.coupling", "common", "--flow.interpolant", "geodesic"]
    arguments += ["--flow.shared_start", "400"]
    config = parse(arguments, "lfm train")
    chain = config.flow.n_subflows
    flow = LocalFlow([nn.Identity() for _ in range(1 if config.flow.share_weights else chain)], SCHEDULES[chain])
    updates = sum(stage.steps for stage in plan_stages(flow, config.fit_options(1)))
    want = 4 * 1000 + 400
    assert weights_of(config.network.channels) * updates == pytest.approx(weights_of((128, 248, 480)) * want, rel=0.02)


def weights_of(channels: tuple[int, ...]) -> int:
    """Weights of one network for Lift's two observations of 19 numbers and actions of 10."""
    with torch.device("meta"):
        return sum(p.numel() for p in UNet1d(10, 2 * 19, channels).parameters())


def test_a_config_that_is_settled_stays_as_it_is(tmp_path: Path) -> None:
    """Settling again (as resuming does) adds nothing: the shared start moves into the steps once."""
    data = small_dataset(tmp_path / "data.hdf5")
    for name in METHODS:
        config = config_of(name, data, tmp_path / "run", {"shared_start": 6})
        assert replace(config) == config
        if METHODS[name].one_network:
            assert config.training.steps == 6 + 6 // 3


def test_what_does_not_fit_a_method_is_refused_by_field(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data.hdf5")
    config = config_of("lfm", data, tmp_path / "run")
    with pytest.raises(LFMError, match=r"method: lmf is not known; choose from lfm, paper"):
        replace(config, method="lmf")  # type: ignore[arg-type]
    with pytest.raises(LFMError, match=r"diffusion\.clip_sample: bounds actions to \[-1, 1\]"):
        replace(config, method="diffusion", data=replace(config.data, action_normalizer="standard"))
    with pytest.raises(LFMError, match=r"global_channels: method fm has one network instead of flow\.n_subflows 3"):
        replace(config, method="fm", global_channels=None)
    epochs = replace(config.training, steps=None)
    with pytest.raises(
        LFMError, match=r"flow\.shared_start: 6 needs training\.steps, not training\.epochs, with method fm"
    ):
        replace(config, method="fm", training=epochs, flow=replace(config.flow, shared_start=6))
