"""Parameter counts: Table A.3's global network and the sub-flows of configs/robomimic, to the digit."""

from __future__ import annotations

import pytest
import torch

from lfm_policy.nets import MLP, UNet1d

GLOBAL, PRINTED, PRINTED_2, EQUAL = (256, 512, 1024), (128, 256, 512), (176, 352, 704), (128, 248, 480)
TO = 2

# observation and action lengths
LIFT, CAN, TRANSPORT, TOOL_HANG = (19, 10), (23, 10), (59, 20), (53, 10)


def count(sizes: tuple[int, int], channels: tuple[int, ...]) -> int:
    """Parameters of a UNet, without memory for them."""
    with torch.device("meta"):
        network = UNet1d(sizes[1], TO * sizes[0], channels)
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("task", "want"), [(LIFT, 65_768_970), (CAN, 65_883_658), (TRANSPORT, 66_933_780), (TOOL_HANG, 66_743_818)]
)
def test_global_network_is_table_a3s(task: tuple[int, int], want: int) -> None:
    assert count(task, GLOBAL) == want


@pytest.mark.parametrize(
    ("task", "channels", "want"),
    [
        (LIFT, PRINTED, 17_910_154),
        (CAN, PRINTED, 17_967_498),
        (TRANSPORT, PRINTED_2, 33_086_820),
        (TOOL_HANG, PRINTED, 18_397_578),
    ],
)
def test_subflow_as_printed(task: tuple[int, int], channels: tuple[int, ...], want: int) -> None:
    assert count(task, channels) == want


@pytest.mark.parametrize(("task", "millions"), [(LIFT, 65.28), (CAN, 65.50), (TOOL_HANG, 67.14)])
def test_four_equal_size_subflows_are_as_large_as_the_global_network(task: tuple[int, int], millions: float) -> None:
    """Equal within 2 %, as comparisons at equal budget ask."""
    total = 4 * count(task, EQUAL)
    assert round(total / 1e6, 2) == millions
    assert total == pytest.approx(count(task, GLOBAL), rel=0.02)


def test_two_transport_subflows_are_as_large_as_the_global_network() -> None:
    assert 2 * count(TRANSPORT, PRINTED_2) == pytest.approx(count(TRANSPORT, GLOBAL), rel=0.02)


@pytest.mark.parametrize(("dim", "width", "depth"), [(2, 256, 3), (6, 362, 3)])
def test_mlp_is_as_large_as_its_layers(dim: int, width: int, depth: int) -> None:
    """(d + 1) w + w, then depth - 1 times w² + w, then w d + d."""
    want = (dim + 2) * width + (depth - 1) * (width + 1) * width + (width + 1) * dim
    assert sum(weight.numel() for weight in MLP(dim, width, depth).parameters()) == want


def test_mlp_of_the_paper_has_the_printed_size() -> None:
    """133,122 parameters a sub-flow in 2-D (Table A.1: nine of them make 1.198 M)."""
    assert sum(weight.numel() for weight in MLP(2, 256, 3).parameters()) == 133_122
