"""Runs of Algorithm A.1: resumed, seeded, over every network, and refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lfm_policy.flow import LFMError, LocalFlow, Schedule, TensorSource
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.distill import (
    Distiller,
    DistillOptions,
    boundaries,
    distill,
    untrained_students,
)
from tests.flow.students import (
    SHORT,
    Affine,
    Constant,
    every_inputs,
    every_sharing,
    teacher,
)
from tests.helpers.tensors import normal, through_a_file
from tests.nets.variants import NETWORKS, Variant


@every_inputs
@every_sharing
def test_resumed_run_continues_bit_for_bit(shared: bool, inputs: Any) -> None:
    """Broken off before the first step, after every single one and after the last."""

    def fresh() -> Distiller:
        options = replace(SHORT, student_inputs=inputs, max_grad_norm=0.1)
        return Distiller(teacher(shared, cond_dim=1), 2, (2,), options, normal(10, 1), seed=4)

    def everything(distiller: Distiller) -> list[Tensor]:
        state = distiller.state_dict()
        moments = [value for entry in state["optimizer"]["state"].values() for value in entry.values()]
        return [*distiller.students.state_dict().values(), *state["networks"].values(), *moments]

    whole, reports = fresh(), []
    kept = [through_a_file((whole.state_dict(), whole.students.state_dict()))]
    while not whole.done:
        reports.append(whole.step())
        kept.append(through_a_file((whole.state_dict(), whole.students.state_dict())))
    assert len(reports) == whole.total_steps == SHORT.steps
    for k, (state, weights) in enumerate(kept):
        resumed = fresh()
        resumed.students.load_state_dict(weights)
        resumed.load_state_dict(state)
        assert resumed.steps_done == k
        assert [resumed.step() for _ in range(SHORT.steps - k)] == reports[k:]
        for got, want in zip(everything(resumed), everything(whole), strict=True):
            assert torch.equal(got, want), k


@pytest.mark.parametrize("from_teacher", [True, False])
def test_seed_is_all_that_a_run_depends_on(from_teacher: bool) -> None:
    """Not the global generator, which is left as it was."""
    options, weights = replace(SHORT, from_teacher=from_teacher), []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(noise)
        students = distill(teacher(), 2, (2,), options, seed=seed)
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(noise)))
        weights.append(torch.cat([w.detach().flatten() for w in students.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_fresh_weights_are_neither_the_teachers_nor_each_others() -> None:
    flow = teacher()
    students = Distiller(flow, 2, (2,), replace(SHORT, from_teacher=False)).students
    every = [*flow.fields, *students.fields]
    for i, network in enumerate(every):
        for other in every[:i]:
            assert not any(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_every_condition_has_its_turn_and_a_source_is_as_good_as_a_tensor() -> None:
    cond = torch.arange(14, dtype=torch.float64)[:, None]
    source = TensorSource(torch.zeros(14, 2, dtype=torch.float64), cond)
    from_tensor, from_source = (Distiller(teacher(cond_dim=1), 2, (2,), SHORT, c) for c in (cond, source))
    drawn = [from_tensor.pairs(k).cond for k in range(4)]
    assert torch.cat(drawn[:2]).flatten().sort().values.tolist() == list(range(14))
    assert torch.cat(drawn[2:]).flatten().sort().values.tolist() == list(range(14))
    assert [from_tensor.step() for _ in range(4)] == [from_source.step() for _ in range(4)]


@pytest.mark.parametrize("variant", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("from_teacher", [True, False])
def test_laws_of_students_over_every_network(variant: Variant, from_teacher: bool) -> None:
    """Each can be copied and drawn anew; a step moves the averaged weights; shapes and dtype are those of x."""
    flow = LocalFlow([variant.build(), variant.build()], Schedule((0.3,)))
    x, _, cond = variant.inputs(2)
    options = replace(SHORT, steps=1, from_teacher=from_teacher)
    distiller = Distiller(flow, 1, variant.shape, options, cond)
    before = copy.deepcopy(distiller.students.state_dict())
    distiller.step()
    assert any(not torch.equal(before[name], w) for name, w in distiller.students.state_dict().items())
    y = distiller.students.pull(x, cond)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_samples_stay_on_the_networks_device(device: str) -> None:
    students = untrained_students(teacher(), 2).to(device)
    assert students.sample((4, 2), generator=generator(0, "noise")).device.type == device


def test_students_must_divide_the_chain() -> None:
    for wrong in (0, 3, 8):
        with pytest.raises(
            LFMError, match=f"n_students: {wrong} does not divide the chain's 4 sub-flows; take 1, 2, 4"
        ):
            distill(teacher(), wrong, (2,), SHORT)
    with pytest.raises(LFMError, match="networks: 3 networks for 2 students"):
        distill(teacher(), 2, (2,), SHORT, networks=[Affine(2)] * 3)
    assert boundaries(6, 2) == (6, 3, 0)


def test_a_loss_that_is_not_finite_names_student_step_and_remedy() -> None:
    flow = teacher()
    with pytest.raises(LFMError, match=r"^loss of student 1 is nan at step 1; lower learning_rate \(0.01\)$"):
        distill(flow, 2, (2,), SHORT, networks=[broken(), Affine(2)])
    flow.field(1).layers[0].weight.data.fill_(math.nan)
    with pytest.raises(LFMError, match="loss of student 2 is nan at step 1; the teacher's own pull is not finite"):
        distill(flow, 2, (2,), SHORT, networks=[Affine(2), Affine(2)])


def broken() -> nn.Module:
    network = Affine(2)
    network.layer.bias.data.fill_(math.nan)
    return network


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(LFMError, match="student_inputs: 'noise' is not one of teacher, student"):
        DistillOptions(student_inputs="noise")  # type: ignore[arg-type]
    with pytest.raises(LFMError, match="steps: 0 must be positive"):
        DistillOptions(steps=0)
    with pytest.raises(LFMError, match="cond: there are no conditions to draw from"):
        distill(teacher(cond_dim=1), 2, (2,), SHORT, cond=torch.zeros(0, 1))
    flow = LocalFlow([Constant(2)], Schedule())
    with pytest.raises(LFMError, match="from_teacher: '' \\(Constant\\) has no reset_parameters"):
        distill(flow, 1, (2,), replace(SHORT, from_teacher=False))
