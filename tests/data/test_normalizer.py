"""Normalisation: the law of each mode, constants, one pass against all at once, the checkpoint round trip."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_policy.data import Normalizer, Statistics
from lfm_policy.data.normalizer import Mode
from lfm_policy.flow.errors import LFMError

MODES: list[Mode] = ["minmax", "standard", "identity"]
CONSTANT = 0.1  # not representable in binary: it must come back bit by bit all the same


@pytest.fixture
def data() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=generator) * torch.tensor([1.0, 20.0, 0.01, 1.0, 1e-6]) + 3
    x[:, 3] = CONSTANT
    return x


@pytest.mark.parametrize("mode", MODES)
def test_round_trip_and_constants(data: torch.Tensor, mode: Mode) -> None:
    normalizer = Normalizer.fit(data, mode)
    assert normalizer.varying.tolist() == [True, True, True, False, False]
    back = normalizer.unnormalize(normalizer.normalize(data))
    torch.testing.assert_close(back[:, :3], data[:, :3], rtol=1e-5, atol=1e-6)
    anything = normalizer.unnormalize(torch.randn(2, 3, 5))
    assert (anything[..., 3] == torch.tensor(CONSTANT)).all()
    assert normalizer.normalize(data)[:, 3:].abs().max() < 1e-4


def test_minmax_fills_the_interval(data: torch.Tensor) -> None:
    x = Normalizer.fit(data, "minmax").normalize(data)[:, :3]
    torch.testing.assert_close(x.amin(0), -torch.ones(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.amax(0), torch.ones(3), rtol=0, atol=1e-4)


def test_standard_has_mean_0_and_deviation_1(data: torch.Tensor) -> None:
    x = Normalizer.fit(data, "standard").normalize(data)[:, :3]
    torch.testing.assert_close(x.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-3)


def test_identity_leaves_what_varies(data: torch.Tensor) -> None:
    assert torch.equal(Normalizer.fit(data, "identity").normalize(data)[:, :3], data[:, :3])


@pytest.mark.parametrize("mode", MODES)
def test_log_abs_det_is_the_jacobians(data: torch.Tensor, mode: Mode) -> None:
    normalizer = Normalizer.fit(data, mode)
    jacobian = torch.autograd.functional.jacobian(normalizer.normalize, data[0])
    assert normalizer.log_abs_det().item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-5)


def test_a_mode_for_each_dimension(data: torch.Tensor) -> None:
    mixed = Normalizer.fit(data, ["minmax", "standard", "identity", "minmax", "standard"]).normalize(data)
    for index, mode in enumerate(MODES):
        assert torch.equal(mixed[:, index], Normalizer.fit(data, mode).normalize(data)[:, index])


def test_the_range_that_counts_as_constant() -> None:
    data = torch.tensor([[0.0, 0.0], [0.9e-4, 1.1e-4]])
    assert Normalizer.fit(data, "minmax").varying.tolist() == [False, True]


def test_statistics_in_one_pass_equal_all_at_once(data: torch.Tensor) -> None:
    statistics = Statistics.of([data[:1], data[1:120], data[120:120], data[120:].reshape(2, 190, 5)])
    exact = data.double()
    assert statistics.count == 500
    torch.testing.assert_close(statistics.mean, exact.mean(0))
    torch.testing.assert_close(statistics.std, exact.std(0, correction=0))
    assert torch.equal(statistics.min, exact.amin(0))
    assert torch.equal(statistics.max, exact.amax(0))


def test_checkpoint_round_trip(data: torch.Tensor, tmp_path: Path) -> None:
    fitted = Normalizer.fit(data, "minmax")
    save_file(fitted.state_dict(), tmp_path / "model.safetensors")
    loaded = Normalizer(5)
    assert torch.equal(loaded.normalize(data), data)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.normalize(data), fitted.normalize(data))
    assert torch.equal(loaded.unnormalize(data), fitted.unnormalize(data))


def test_dtype_follows_the_module(data: torch.Tensor) -> None:
    normalizer = Normalizer.fit(data, "standard").double()
    assert normalizer.normalize(data.double()).dtype == torch.float64
    assert normalizer.varying.dtype == torch.bool


def test_what_cannot_be_fitted(data: torch.Tensor) -> None:
    data[7, 2] = math.nan
    with pytest.raises(LFMError, match=r"\[2\]"):
        Normalizer.fit(data, "minmax")
    with pytest.raises(LFMError, match="no frames"):
        Normalizer.fit(torch.zeros(0, 3), "minmax")
    with pytest.raises(LFMError, match="zscore"):
        Normalizer.fit(torch.zeros(2, 3), "zscore")  # type: ignore[arg-type]
    with pytest.raises(LFMError, match="2 modes for 3"):
        Normalizer.fit(torch.zeros(2, 3), ["minmax", "identity"])
