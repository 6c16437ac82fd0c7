"""bfloat16 only where it is wanted, known to work, and a network is being trained: all else is float32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lfm_policy.flow import (
    Distiller,
    DistillOptions,
    FitOptions,
    Fitter,
    LocalFlow,
    Schedule,
    Solver,
    TensorSource,
    distill,
)
from lfm_policy.flow.device import training_precision
from lfm_policy.nets import MLP

FIT = FitOptions(steps=2, batch_size=6, warmup_steps=1, autocast=True, push_solver=Solver("euler", 1))
DISTILL = DistillOptions(steps=2, batch_size=6, warmup_steps=1, autocast=True, teacher_solver=Solver("euler", 1))
CUDA = torch.device("cuda")


class Noting(MLP):
    """Keeps whether it was differentiated, and the devices whose autocast was on."""

    seen: list[tuple[bool, bool, bool]] = []  # noqa: RUF012
    dtypes: set[torch.dtype] = set()  # noqa: RUF012

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        Noting.seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), on_cuda()))
        result = super().forward(x, t, cond)
        Noting.dtypes |= {x.dtype, t.dtype, result.dtype}
        return result


def on_cuda() -> bool:
    return torch.is_autocast_enabled("cuda")


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    Noting.seen, Noting.dtypes = [], set()
    yield
    assert not torch.is_autocast_enabled("cpu")  # nothing is left switched on
    assert not on_cuda()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CUDA device that has bfloat16, as far as torch's questions about it go."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return monkeypatch


@pytest.fixture
def as_if_on_cuda(cuda: pytest.MonkeyPatch) -> None:
    """Training asks for the precision of a CUDA device: its autocast is then on, and does nothing to CPU tensors."""

    def asked(device: torch.device, wanted: bool) -> torch.autocast:
        return training_precision(CUDA, wanted)

    for module in ("stages", "distill"):
        cuda.setattr(sys.modules[f"lfm_policy.flow.{module}"], "training_precision", asked)


def flow() -> LocalFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LocalFlow([Noting(2, 8, 1) for _ in range(2)], Schedule((0.4,)))


def fitter(options: FitOptions = FIT) -> Fitter:
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    return Fitter(flow(), TensorSource(x), options, valid=TensorSource(x[:5]))


def use_everything(options: FitOptions = FIT) -> None:
    """Train both sub-flows, with a push between, take held-out losses, sample."""
    trained = fitter(options)
    while not trained.done:
        trained.step()
        trained.held_out_loss()
    trained.flow.sample((3, 2))
    trained.flow.log_prob(torch.zeros(3, 2))


def entered(device: torch.device, wanted: bool) -> dict[str, Any]:
    with training_precision(device, wanted):
        return {
            "cpu": torch.is_autocast_enabled("cpu"),
            "cuda": on_cuda(),
            "dtype": torch.get_autocast_dtype(device.type),
        }


def test_a_cpu_stays_in_float32_even_if_asked() -> None:
    """Some announce bfloat16 and end in an illegal instruction."""
    use_everything()
    distill(flow(), 2, (2,), DISTILL)
    assert {grad for grad, _, _ in Noting.seen} == {True, False}
    assert not any(cpu or cuda for _, cpu, cuda in Noting.seen)
    assert Noting.dtypes == {torch.float32}


def test_on_a_cpu_a_callers_own_autocast_does_not_reach_a_network_that_trains() -> None:
    trained = fitter()
    with torch.autocast("cpu", torch.bfloat16):
        trained.step()
        assert torch.is_autocast_enabled("cpu")
    assert Noting.seen == [(True, False, False)]


def test_asking_changes_nothing_on_a_cpu() -> None:
    reports = []
    for autocast in (True, False):
        trained = fitter(replace(FIT, autocast=autocast))
        reports.append([trained.step() for _ in range(trained.total_steps)])
    assert reports[0] == reports[1]


@pytest.mark.usefixtures("cuda")
def test_bfloat16_is_used_where_it_is_wanted_and_known() -> None:
    assert entered(CUDA, True) == {"cpu": False, "cuda": True, "dtype": torch.bfloat16}
    assert not entered(CUDA, False)["cuda"]
    assert not entered(torch.device("cpu"), True)["cpu"]
    assert not entered(torch.device("cpu"), True)["cuda"]


def test_bfloat16_that_a_device_only_emulates_is_not_used(cuda: pytest.MonkeyPatch) -> None:
    cuda.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert entered(CUDA, True)["cuda"] is False


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_devices_of_which_nothing_is_known_stay_in_float32(device: str) -> None:
    with training_precision(torch.device(device), True):
        assert not any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda", "mps", "xpu"))


@pytest.mark.usefixtures("as_if_on_cuda")
def test_pushes_pulls_and_held_out_losses_never_run_in_bfloat16() -> None:
    """What is differentiated is in bfloat16, and nothing else is."""
    use_everything()
    with_gradient = [cuda for grad, _, cuda in Noting.seen if grad]
    without = [cuda for grad, _, cuda in Noting.seen if not grad]
    assert sum(with_gradient) == 2 * FIT.steps  # the likelihood's divergence is differentiated in float32
    assert len(without) > 0
    assert not any(without)


@pytest.mark.usefixtures("as_if_on_cuda")
@pytest.mark.parametrize("inputs", ["teacher", "student"])
def test_a_teachers_pulls_never_run_in_bfloat16(inputs: str) -> None:
    distiller = Distiller(flow(), 2, (2,), replace(DISTILL, student_inputs=inputs))
    distiller.step()
    with_gradient = [cuda for grad, _, cuda in Noting.seen if grad]
    without = [cuda for grad, _, cuda in Noting.seen if not grad]
    assert with_gradient == [True, True]
    assert len(without) >= 2
    assert not any(without)
