"""Single and short chunks take a way of their own, to where torch's convolution and activation lead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lfm_policy.nets import UNet1d
from lfm_policy.nets.unet1d import Conv1d, Mish


@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 1, 2), (3, 2, 1), (1, 1, 0), (3, 1, 1), (7, 3, 2)])
@pytest.mark.parametrize(("batch", "length"), [(1, 7), (1, 16), (5, 7), (5, 16)])
def test_convolution_and_its_gradients_are_torchs(
    size: int, stride: int, padding: int, batch: int, length: int
) -> None:
    torch.manual_seed(size)
    conv = Conv1d(6, 4, size, stride=stride, padding=padding).double()
    x = torch.randn(batch, 6, length, dtype=torch.float64, requires_grad=True)
    got, want = conv(x), nn.functional.conv1d(x, conv.weight, conv.bias, stride, padding)
    torch.testing.assert_close(got, want)
    inputs, gradient = (x, *conv.parameters()), torch.randn_like(want)
    torch.testing.assert_close(torch.autograd.grad(got, inputs, gradient), torch.autograd.grad(want, inputs, gradient))
    # a view whose rows lie apart, as a transposed chunk is
    torch.testing.assert_close(conv(x.transpose(1, 2).contiguous().transpose(1, 2)), want)


def test_activation_is_mish() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    with torch.no_grad():
        got = Mish()(x)
    torch.testing.assert_close(got, x * torch.tanh(torch.log1p(torch.exp(x))))
    torch.testing.assert_close(got, Mish()(x))


def test_a_chunk_alone_is_what_it_is_in_a_batch() -> None:
    torch.manual_seed(0)
    network = UNet1d(7, 20, (16, 32, 64), embedding_dim=16).double()
    x, t, cond = torch.randn(3, 16, 7).double(), torch.rand(3).double(), torch.randn(3, 20).double()
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(alone, network(x, t, cond))
    torch.testing.assert_close(alone, network(x, t, cond))
