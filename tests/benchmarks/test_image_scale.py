"""What docs/scale.md says is counted right, and Table A.2's configurations are what they claim to be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel
from torch import nn

from benchmarks.image_counts import LiveBytes, evaluation_bytes, fused_attention, operations, parameters, saved_bytes
from benchmarks.image_scale import ASSUMED, CONFIGS, QUOTED, TABLE, memory, read_config, total_operations
from lfm_policy.image.model import UNet2dConfig
from lfm_policy.nets.unet2d import UNet2d

ROOT = Path(__file__).parent.parent.parent
RECORDED = {row["name"]: row for row in json.loads((ROOT / "results/image/scale.json").read_text())["rows"]}

# Table A.2: batch, batches per network, base width, multipliers, N, (c, rho), learning rate
PAPER: dict[str, tuple[Any, ...]] = {
    "cifar10": (200, 5e4, 128, [1, 2, 2, 2, 2], 4, 0.3, 1.1, 1e-4),
    "imagenet32": (256, 2e5, 114, [1, 2, 2, 2], 5, 0.3, 1.1, 1e-4),
    "flowers": (40, 4e4, 128, [1, 1, 2, 3, 4], 4, 0.5, 1.5, 2e-4),
    "lsun_church": (40, 1.2e5, 128, [1, 1, 2, 3, 4], 4, 0.4, 1.5, 2e-4),
}


def diffusers_own(settings: dict[str, Any], side: int) -> UNet2DModel:
    """The same network out of a YAML file's numbers, by diffusers alone."""
    attends = [level in settings["attention"] for level in range(len(settings["channels"]))]
    with torch.device("meta"):
        return UNet2DModel(
            sample_size=side,
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(settings["channels"]),
            layers_per_block=settings["layers_per_block"],
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]),
            attention_head_dim=settings["head_dim"],
            norm_num_groups=settings["n_groups"],
            downsample_type=settings["resample"],
            upsample_type=settings["resample"],
            resnet_time_scale_shift="scale_shift" if settings["scale_shift"] else "default",
        )


@pytest.mark.parametrize("name", TABLE)
def test_configuration_is_table_a2s(name: str) -> None:
    config = read_config(name)
    batch, steps, width, multipliers, n, c, rho, rate = PAPER[name]
    assert config.training.batch_size == batch
    assert config.training.steps == steps
    assert list(config.network.channels) == [width * factor for factor in multipliers]
    assert (config.flow.n_subflows, config.flow.c, config.flow.rho) == (n, c, rho)
    assert config.training.learning_rate == rate
    assert (config.flow.time_alpha, config.flow.time_beta) == (1, 1)
    assert (config.flow.interpolant, config.flow.coupling, config.flow.marginals) == (
        "trigonometric",
        "fresh",
        "pushed",
    )


@pytest.mark.parametrize("name", TABLE)
def test_recorded_weights_are_diffusers_own(name: str) -> None:
    """Of the YAML file's numbers; and the file's first lines name their total, within 2 % of the table's."""
    text = (CONFIGS / f"{name}.yaml").read_text()
    side, _, millions = TABLE[name]
    network = diffusers_own(yaml.safe_load(text)["network"], side)
    total = read_config(name).flow.n_subflows * sum(weight.numel() for weight in network.parameters())
    assert RECORDED[name]["parameters"]["total"] == total
    assert f"= {total / 1e6:.1f} M parameters" in text
    assert total == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize("name", TABLE)
def test_pieces_of_batches_and_pushes_fit_the_smallest_accelerator(name: str) -> None:
    found = RECORDED[name]["memory"]
    config = read_config(name)
    smallest = str(min(peaks["memory_gb"] for peaks in QUOTED.values()))
    assert -(-config.training.batch_size // config.training.accumulate) <= found["largest_piece_float32"][smallest]
    assert config.flow.push_batch_size <= found["largest_push"][smallest]


def test_recorded_counts_are_those_of_the_configuration() -> None:
    """Of one setting: a result that nobody made again after its configuration changed is noticed."""
    config, (side, images, _) = read_config("imagenet32"), TABLE["imagenet32"]
    recorded = RECORDED["imagenet32"]
    assert total_operations(config, (3, side, side), images) == recorded["operations"]
    assert memory(config, (3, side, side), parameters((3, side, side), config.network)) == recorded["memory"]


def convolutions_and_linears(network: nn.Module, side: int) -> int:
    """Multiply-adds of an evaluation of one image: every output element costs one per weight of its row."""
    total = 0

    def add(module: nn.Module, given: Any, result: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += result.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with torch.device("meta"):
        network(torch.empty(1, 3, side, side), torch.empty(1))
    return total


@pytest.mark.parametrize("name", ["cifar10", "flowers"])
def test_operations_are_those_of_the_layers_and_of_attention(name: str) -> None:
    """Attention over T places: two products of T x T x C, in each block of a level that attends and the middle."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["network"]
    side = TABLE[name][0]
    levels = [(side // 2**level, settings["channels"][level]) for level in settings["attention"]]
    blocks = 2 * settings["layers_per_block"] + 1  # one more on the way up
    middle = (side // 2 ** (len(settings["channels"]) - 1), settings["channels"][-1])
    attention = sum(blocks * 2 * width * places**4 for places, width in levels) + 2 * middle[1] * middle[0] ** 4
    want = convolutions_and_linears(diffusers_own(settings, side), side) + attention
    assert RECORDED[name]["operations"]["evaluation_multiply_adds"] == want


def test_training_costs_three_evaluations_where_nothing_attends() -> None:
    """Less the gradient of the images, which is not asked for, nor that of the time's sinusoids."""
    config = UNet2dConfig(channels=(16, 32), layers_per_block=1)
    forward, both = operations((3, 16, 16), config)
    first = 2 * 16 * 16 * 16 * 3 * 9
    time = 2 * 16 * 64
    assert both == 3 * forward - first - time


def test_fused_attention_is_attention_that_keeps_no_matrix() -> None:
    q = torch.empty(2, 4, 256, 16, device="meta", requires_grad=True)
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with fused_attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = nn.functional.scaled_dot_product_attention(q, q, q)
    assert result.shape == q.shape
    assert kept
    assert all(shape[-2:] != (256, 256) for shape in kept)


def test_saved_bytes_are_what_a_cpu_keeps() -> None:
    """Real tensors of a real evaluation without attention, whose storages are told apart by their addresses."""
    config = UNet2dConfig(channels=(16, 32), layers_per_block=1)
    network = UNet2d((3, 16, 16), config.channels, config.layers_per_block)
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def kept(count: int) -> int:
        found: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.randn(count, 3, 16, 16), torch.rand(count)).square().mean()
        return sum(tensor.untyped_storage().nbytes() for key, tensor in found.items() if key not in own)

    assert saved_bytes((3, 16, 16), config, autocast=False)[0] == kept(3) - kept(2)


def test_autocast_keeps_less_and_a_copy_of_matrices_in_half() -> None:
    """Of all but the first on the time's way, whose input asks for no gradient."""
    config = UNet2dConfig(channels=(16, 32), layers_per_block=1)
    with torch.device("meta"):
        network = UNet2d((3, 16, 16), config.channels, config.layers_per_block)
    matrices = sum(weight.numel() for weight in network.parameters() if weight.dim() > 1)
    (single, _), (half, copies) = (saved_bytes((3, 16, 16), config, autocast) for autocast in (False, True))
    assert half < single
    assert copies == 2 * (matrices - 16 * 64)


def test_live_bytes_are_the_most_that_lie_there_at_a_time() -> None:
    x = torch.empty(1000, device="meta")  # 4000 bytes that were there before
    with LiveBytes() as live:
        y = x + 1
        z = y.view(10, 100) * 2
        assert (live.live, live.peak) == (8000, 8000)
        del y
        assert (live.live, live.peak) == (4000, 8000)
        z.mul_(2)
        z = z + 1
    assert (live.live, live.peak) == (4000, 8000)


def test_an_evaluation_holds_at_least_its_skip_connections() -> None:
    """And, being freed as it goes, less than what a backward needs."""
    config = UNet2dConfig(channels=(16, 32), layers_per_block=2)
    skips = 4 * (16 * 256 * 3 + 16 * 64 + 32 * 64 * 2)  # three of 16 x 16, its half, two of the coarse level
    held = evaluation_bytes((3, 16, 16), config)
    assert skips < held < saved_bytes((3, 16, 16), config, autocast=False)[0]


def test_hours_and_pieces_follow_from_what_is_quoted_and_assumed() -> None:
    for row in RECORDED.values():
        for device, peaks in QUOTED.items():
            seconds = row["operations"]["training"] / (peaks["bf16"] * 1e12 * ASSUMED["utilisation"])
            assert row["hours"][device]["training_bf16"] == pytest.approx(seconds / 3600, abs=1e-4)


@pytest.mark.parametrize("name", TABLE)
def test_page_tells_the_recorded_numbers(name: str) -> None:
    """Weights, arithmetic, memory and hours of each setting stand in docs/scale.md as they were recorded."""
    page = (ROOT / "docs/scale.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(f"| {name} ")]
    numbers = {float(found) for line in rows for found in re.findall(r"\d+(?:\.\d+)?", line.replace(",", ""))}
    row = RECORDED[name]
    told = [
        round(row["parameters"]["total"] / 1e6, 1),
        round(row["operations"]["evaluation_multiply_adds"] / 1e9, 1),
        round(row["operations"]["training"] / 1e18, 2),
        round(row["memory"]["saved_per_image_autocast"] / 1e6),
        round(row["disk"]["pushed"] / 1e9, 1),
        *(round(row["hours"][device]["training_bf16"], 1) for device in QUOTED),
    ]
    assert set(told) <= numbers, set(told) - numbers
