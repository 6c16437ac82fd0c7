"""Runs on a few digits with networks so small that they take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm_policy.data.images import ImageDataConfig
from lfm_policy.image.config import DistillationConfig, ImageConfig, SamplesConfig
from lfm_policy.image.model import LocalFlowModel, UNet2dConfig, new_model
from lfm_policy.image.run import ImageRun
from lfm_policy.training.config import FlowConfig, TrainingConfig

TINY = UNet2dConfig(channels=(8, 8), layers_per_block=1, n_groups=4)
PUSHED = FlowConfig(
    n_subflows=3, interpolant="ot", coupling="fresh", marginals="pushed", push_steps=1, push_batch_size=16
)
EXACT = FlowConfig(n_subflows=2, shared_start=2)


def small_config(folder: Path, flow: FlowConfig = PUSHED, **changes: Any) -> ImageConfig:
    """40 digits, 4 steps per sub-flow."""
    training = TrainingConfig(
        steps=4, batch_size=8, learning_rate=1e-2, warmup_steps=1, log_every=3, valid_every=2, checkpoint_every=100
    )
    config = ImageConfig(
        output_dir=str(folder),
        data=ImageDataConfig("digits", n_train=40, n_test=12, flips=True),
        network=TINY,
        flow=flow,
        training=training,
        samples=SamplesConfig(4, 3),
        distillation=DistillationConfig(steps=3, batch_size=4, teacher_steps=1, log_every=2, warmup_steps=1),
        seed=3,
        threads=1,
    )
    return replace(config, **changes)


def trained(config: ImageConfig) -> ImageRun:
    """The run, at its end or at stop_after."""
    run = ImageRun(config, say=lambda line: None)
    run.train()
    return run


def weights(model: LocalFlowModel) -> list[Tensor]:
    """All of them."""
    return [tensor.detach().clone() for tensor in model.flow.state_dict().values()]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    """Bit for bit."""
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


def tiny_model(n_students: int | None = None, gammas: tuple[float, ...] = (0.3, 0.4), share: bool = False) -> Any:
    """An untrained model of 8 x 8 images."""
    from lfm_policy.flow import Schedule

    return new_model((1, 8, 8), TINY, Schedule(gammas), share, n_students, seed=1)
