"""Teachers, students and options of the tests of distillation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import LocalFlow, Schedule, Solver
from lfm_policy.flow.distill import DistillOptions
from lfm_policy.nets import MLP
from tests.flow.analytic import LinearField, linear_field

SCHEDULE = Schedule.geometric(4, 0.2, 1.3)
RK4 = Solver("rk4", steps=3)
OPTIONS = DistillOptions(
    steps=250, batch_size=32, learning_rate=0.1, beta1=0.9, weight_decay=0.0, warmup_steps=20, teacher_solver=RK4
)
SHORT = replace(OPTIONS, steps=5, batch_size=7, learning_rate=1e-2, warmup_steps=2, teacher_solver=Solver("euler", 1))
every_count = pytest.mark.parametrize("n_students", [4, 2, 1])
every_inputs = pytest.mark.parametrize("inputs", ["teacher", "student"])
every_sharing = pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])


class Affine(nn.Module):
    """v = W [x, c] + b, beginning at zero."""

    def __init__(self, dim: int, cond_dim: int = 0) -> None:
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, dim + cond_dim, dim, dtype=torch.float64)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.layer(x if cond is None else torch.cat([x, cond], dim=1))


class Constant(nn.Module):
    """v = b: a student that can only shift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.bias.expand_as(x)


class Noting(Constant):
    """Keeps what it is asked, in all of its copies."""

    asked: list[tuple[Tensor, Tensor, Tensor | None]] = []  # noqa: RUF012

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor | None = None) -> Tensor:
        Noting.asked.append((x, tau, cond))
        return super().forward(x, tau, cond)


class Conditional(nn.Module):
    """v = A x + B c + u τ + b: a linear field of [x, c] in which c stands still."""

    def __init__(self, seed: int, dim: int, cond_dim: int) -> None:
        super().__init__()
        joint = linear_field(seed, dim + cond_dim)
        keep = (torch.arange(dim + cond_dim) < dim).double()
        self.joint = LinearField(joint.matrix * keep[:, None], joint.slope * keep, joint.offset * keep)

    def forward(self, x: Tensor, tau: Tensor, cond: Tensor) -> Tensor:
        return self.joint(torch.cat([x, cond], dim=1), tau)[:, : x.shape[1]]

    def exact(self, x: Tensor, cond: Tensor, start: float, end: float) -> Tensor:
        return self.joint.exact(torch.cat([x, cond], dim=1), start, end)[:, : x.shape[1]]


def teacher(shared: bool = False, cond_dim: int = 0) -> LocalFlow:
    """Four sub-flows of small networks in float64, with weights of twice the usual size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = [MLP(2, 8, 1, cond_dim=cond_dim).double() for _ in range(1 if shared else 4)]
    for field in fields:
        for weight in field.parameters():
            weight.data.mul_(2.0)
    return LocalFlow(fields, SCHEDULE)
