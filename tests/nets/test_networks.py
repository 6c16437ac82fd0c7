"""Laws that every velocity field obeys, over every network in every setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lfm_policy.nets import MLP, UNet1d
from tests.nets.variants import NETWORKS, Variant

every_network = pytest.mark.parametrize("variant", NETWORKS.values(), ids=NETWORKS)


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_velocity_has_the_shape_dtype_and_device_of_x(variant: Variant, dtype: torch.dtype, device: str) -> None:
    x, t, cond = variant.inputs(4, dtype, device)
    velocity = variant.build().to(device, dtype)(x, t, cond)
    assert (velocity.shape, velocity.dtype, velocity.device.type) == (x.shape, dtype, device)


@every_network
def test_gradient_reaches_every_parameter_and_every_input(variant: Variant) -> None:
    network = variant.build()
    inputs = [value.requires_grad_() for value in variant.inputs(8) if value is not None]
    network(*inputs).pow(2).sum().backward()
    for name, weight in [*network.named_parameters(), *zip(("x", "t", "cond"), inputs, strict=False)]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", [name for name in NETWORKS if "relu" not in name])  # whose units may rest
def test_gradient_reaches_every_row_of_every_weight(name: str) -> None:
    """Half of a layer's outputs may be unused while its weight as a whole has a gradient."""
    variant = NETWORKS[name]
    network = variant.build()
    network(*variant.inputs(8)).pow(2).sum().backward()
    for weight_name, weight in network.named_parameters():
        if weight_name.endswith("to_k.bias"):
            continue  # adds the same to all of a query's scores, so attention does not change
        assert (weight.grad.reshape(len(weight), -1).abs().sum(1) > 0).all(), weight_name


@every_network
def test_saved_and_loaded_weights_give_the_same_outputs(variant: Variant, tmp_path: Path) -> None:
    network, other = variant.build(), variant.make()
    x, t, cond = variant.inputs(4)
    assert not torch.equal(other(x, t, cond), network(x, t, cond))
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert torch.equal(other(x, t, cond), network(x, t, cond))


@every_network
def test_samples_do_not_influence_each_other(variant: Variant) -> None:
    network = variant.build().double()
    x, t, cond = variant.inputs(4, torch.float64)
    whole = network(x, t, cond)
    for b in range(4):
        single = network(x[b : b + 1], t[b : b + 1], None if cond is None else cond[b : b + 1])
        torch.testing.assert_close(single, whole[b : b + 1], atol=1e-12, rtol=0)
    far = [None if value is None else value.clone() for value in (x, t, cond)]
    for value in far:
        if value is not None:
            value[1:] = value[1:] * 50 + 3
    assert torch.equal(network(*far)[0], whole[0])


@every_network
def test_every_input_matters(variant: Variant) -> None:
    network = variant.build().double()
    x, t, cond = variant.inputs(4, torch.float64)
    base = network(x, t, cond)
    others = [(x + 0.1, t, cond), (x, t + 0.1, cond)]
    if cond is not None:
        others.append((x, t, cond + 0.1))
    for other in others:
        assert ((network(*other) - base).flatten(1).norm(dim=1) > 1e-4).all()


@every_network
def test_evaluation_is_deterministic(variant: Variant) -> None:
    """No dropout and no running statistics: training and evaluation modes agree."""
    network = variant.build()
    inputs = variant.inputs(4)
    first = network.train()(*inputs)
    assert torch.equal(network.train()(*inputs), first)
    assert torch.equal(network.eval()(*inputs), first)


@pytest.mark.parametrize("horizon", [4, 8, 16, 20])
def test_unet_takes_every_horizon_its_stride_divides(horizon: int) -> None:
    network = UNet1d(2, 0, (8, 8, 16), embedding_dim=16, n_groups=4)
    assert network.stride == 4
    x = torch.zeros(2, horizon, 2)
    assert network(x, torch.zeros(2)).shape == x.shape
    with pytest.raises(ValueError, match=rf"policy\.horizon: {horizon + 2} steps are not divisible by 4"):
        network(torch.zeros(2, horizon + 2, 2), torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet1d(2, 0, (12,)), r"network\.channels: \[12\] must be multiples of network\.n_groups 8"),
        (lambda: UNet1d(2, 0, ()), r"network\.channels: \[\]"),
        (lambda: UNet1d(2, 0, (8, 0)), r"network\.channels: \[8, 0\]"),
        (lambda: UNet1d(2, 0, (8,), kernel_size=4), r"network\.kernel_size: 4 must be odd"),
        (lambda: UNet1d(2, 0, (8,), embedding_dim=7), r"network\.embedding_dim: 7 must be even"),
        (lambda: MLP(2, activation="tanh"), r"network\.activation: 'tanh' is not one of relu, elu"),
        (lambda: MLP(2, n_frequencies=-1), r"network\.n_frequencies: -1 must not be negative"),
        (lambda: MLP(2, knots=(0.0, 0.5, 0.5)), r"network\.knots: \[0\.0, 0\.5, 0\.5\] must increase"),
    ],
)
def test_impossible_sizes_are_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
