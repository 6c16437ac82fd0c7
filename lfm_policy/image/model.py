"""An image flow, a chain of sub-flows or its students, as a model that diffusers saves and loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lfm_policy.flow import DistilledFlow, LFMError, LocalFlow, Schedule
from lfm_policy.flow.random import named_seed
from lfm_policy.nets.unet2d import UNet2d
from lfm_policy.training.folder import plain


@dataclass(frozen=True)
class UNet2dConfig:
    """Widths and sizes of one network; see `UNet2d`.

    Args:
        channels: widths of the levels, from fine to coarse.
        layers_per_block: residual blocks per level.
        attention: levels with self-attention, counted from 0, the finest.
        head_dim: channels of an attention head.
        n_groups: of group norms.
        patch_size: side of the squares of pixels that become channels.
        resample: `conv` or `resnet`: how levels are joined.
        scale_shift: let the time scale every block as well as shift it.
    """

    channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 32
    n_groups: int = 8
    patch_size: int = 1
    resample: Literal["conv", "resnet"] = "conv"
    scale_shift: bool = False


class LocalFlowModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """N sub-flows of images, or N' students of them, each a `UNet2d`; `flow` is the chain itself.

    Args:
        shape: (C, H, W) of an image.
        network: fields of `UNet2dConfig`.
        gammas: step sizes γ_1 … γ_(N-1) of the schedule.
        share_weights: one network for all sub-flows, or all students.
        n_students: N' of a distilled chain; None for a chain of sub-flows.
    """

    flow: LocalFlow | DistilledFlow

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int],
        network: dict[str, Any],
        gammas: Sequence[float],
        share_weights: bool = False,
        n_students: int | None = None,
    ) -> None:
        super().__init__()
        schedule = Schedule(tuple(gammas))
        count = 1 if share_weights else n_students or schedule.n_subflows
        fields = [UNet2d(shape, **network) for _ in range(count)]
        students = n_students is not None
        self.flow = DistilledFlow(fields, schedule, n_students) if students else LocalFlow(fields, schedule)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        c, h, w = self.config["shape"]
        return c, h, w


def new_model(
    shape: Sequence[int],
    network: UNet2dConfig,
    schedule: Schedule,
    share_weights: bool = False,
    n_students: int | None = None,
    seed: int = 0,
) -> LocalFlowModel:
    """An untrained model whose weights are a function of the seed; LFMError for impossible sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "weights"))  # torch's initialisers know only the global generator
        try:
            return LocalFlowModel(
                shape=list(shape),
                network=plain(asdict(network)),
                gammas=list(schedule.gammas),
                share_weights=share_weights,
                n_students=n_students,
            )
        except ValueError as error:  # nets know no LFMError
            raise LFMError(str(error)) from error


def count_parameters(model: LocalFlowModel) -> int:
    """Weights of all networks together."""
    return sum(weight.numel() for weight in model.flow.parameters())


def evaluation_macs(model: LocalFlowModel) -> int:
    """Multiply-adds of one evaluation of one network for one image."""
    field = model.flow.field(1)
    x = next(model.parameters()).new_zeros(1, *model.shape)
    # torch's counter knows no fused attention of CPUs
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        field(x, x.new_zeros(1))
    return counter.get_total_flops() // 2
