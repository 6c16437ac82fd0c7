"""Algorithm A.1 against teachers in closed form: what students are given, what they learn, and what they are then."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lfm_policy.flow import LocalFlow, Schedule, Solver
from lfm_policy.flow import named_generator as generator
from lfm_policy.flow.distill import (
    DistilledFlow,
    Distiller,
    distill,
    untrained_students,
)
from lfm_policy.nets import MLP
from tests.flow.analytic import GAUSSIAN, Mixture, ideal_flow, linear_field
from tests.flow.students import (
    OPTIONS,
    SCHEDULE,
    SHORT,
    Affine,
    Conditional,
    Constant,
    Noting,
    every_count,
    every_inputs,
    every_sharing,
    teacher,
)
from tests.helpers.tensors import normal


@every_count
@every_inputs
def test_affine_students_learn_the_matrix_exponential(n_students: int, inputs: Any) -> None:
    """The teacher's map over a group is affine, so the loss has a minimum of zero, whoever makes the inputs.

    Errors are 4e-4 to 1.2e-3 in a map of order one; RK4's own are 7e-4.
    """
    fields = [linear_field(n) for n in range(4)]
    options = replace(OPTIONS, student_inputs=inputs)
    networks = [Affine(3) for _ in range(n_students)]
    students = distill(LocalFlow(fields, SCHEDULE), n_students, (3,), options, networks=networks)
    x, clock = normal(50, 3), SCHEDULE.clock
    for n in range(1, n_students + 1):
        want = x
        for k in students.subflows(n):
            want = fields[k - 1].exact(want, clock[k], clock[k - 1])
        with torch.no_grad():
            torch.testing.assert_close(students.step(n, x), want, atol=3e-3, rtol=0)


@every_count
def test_affine_students_of_gaussian_data_learn_the_optimal_map(n_students: int) -> None:
    """A group's map is m_l + S_l^(1/2) S_r^(-1/2) (x - m_r), the moments those of the OU marginals at its ends."""
    flow = ideal_flow(GAUSSIAN, SCHEDULE, ["geodesic"] * 4, ["common"] * 4)
    students = distill(flow, n_students, (2,), OPTIONS, networks=[Affine(2) for _ in range(n_students)])
    values, basis = torch.linalg.eigh(GAUSSIAN.covariances[0])
    x = normal(50, 2)
    for n in range(1, n_students + 1):
        right, left = (math.exp(-SCHEDULE.times[b]) for b in students.boundaries[n - 1 : n + 1])
        ratio = ((left**2 * values + 1 - left**2) / (right**2 * values + 1 - right**2)).sqrt()
        want = left * GAUSSIAN.mean + (x - right * GAUSSIAN.mean) @ (basis * ratio) @ basis.T
        with torch.no_grad():
            torch.testing.assert_close(students.step(n, x), want, atol=3e-3, rtol=0)


def test_conditional_students_learn_the_teachers_dependence_on_the_condition() -> None:
    """And every condition stands beside the sample that was pulled under it."""
    fields = [Conditional(n, 2, 2) for n in range(4)]
    cond = normal(100, 2, seed=1)
    networks = [Affine(2, 2) for _ in range(2)]
    students = distill(LocalFlow(fields, SCHEDULE), 2, (2,), replace(OPTIONS, steps=400), cond, networks)
    x, c, clock = normal(50, 2), normal(50, 2, seed=2), SCHEDULE.clock
    want = x
    for n in (4, 3, 2, 1):
        want = fields[n - 1].exact(want, c, clock[n], clock[n - 1])
    with torch.no_grad():
        torch.testing.assert_close(students.pull(x, c), want, atol=5e-3, rtol=0)


@every_sharing
@every_count
def test_untrained_copies_are_the_teachers_euler_steps(n_students: int, shared: bool) -> None:
    """For k > 1 an Euler step over the group's stretches, with the network of the sub-flow at their noise end."""
    flow, x, k, clock = teacher(shared), normal(9, 2), 4 // n_students, SCHEDULE.clock
    want = x
    for right in range(4, 0, -k):
        tau = torch.full((9,), clock[right], dtype=torch.float64)
        want = want - (clock[right] - clock[right - k]) * flow.field(right)(want, tau)
    students = Distiller(flow, n_students, (2,), SHORT).students
    torch.testing.assert_close(students.pull(x), want, atol=1e-14, rtol=0)
    if k == 1:
        torch.testing.assert_close(students.pull(x), flow.pull(x, solver=Solver("euler", 1)), atol=1e-14, rtol=0)
    if k == 4 and shared:
        whole = LocalFlow(flow.fields, Schedule()).pull(x, solver=Solver("euler", 1))
        torch.testing.assert_close(students.pull(x), whole, atol=1e-14, rtol=0)
    assert len(students.fields) == (1 if shared else n_students)


def test_training_changes_the_students_and_not_the_teacher() -> None:
    flow = teacher()
    before = copy.deepcopy(flow.state_dict())
    students = distill(flow, 2, (2,), SHORT)
    assert all(torch.equal(flow.state_dict()[name], weight) for name, weight in before.items())
    start = untrained_students(flow, 2).state_dict()
    assert not any(torch.equal(students.state_dict()[name], weight) for name, weight in start.items())


@every_count
def test_inputs_follow_the_teachers_marginals(n_students: int) -> None:
    """Mean and covariance of student n's inputs are the OU marginal's at its noise end, to 4 standard errors."""
    flow = ideal_flow(GAUSSIAN, SCHEDULE, ["geodesic"] * 4, ["common"] * 4)
    count = 20_000
    distiller = Distiller(flow, n_students, (2,), replace(OPTIONS, batch_size=count), networks=[Affine(2)])
    inputs, targets, _ = distiller.pairs(0)
    places = distiller.students.boundaries
    for x, place in zip([*inputs, targets[-1]], places, strict=True):
        law = GAUSSIAN.diffused(SCHEDULE.times[place])
        variance = law.covariance.diagonal()
        assert ((x.mean(0) - law.mean).abs() < 4 * (variance / count).sqrt()).all()
        # Var of a sample covariance: (S_ij² + S_ii S_jj) / M
        error = ((law.covariance**2 + variance[:, None] * variance) / count).sqrt()
        assert ((x.T.cov() - law.covariance).abs() < 4 * error).all()


@every_inputs
@every_sharing
@every_count
def test_targets_are_the_teachers_pull_of_the_inputs(n_students: int, shared: bool, inputs: str) -> None:
    """Whoever made the inputs, and whatever the students have become; the first input is fresh noise at every step."""
    flow, cond = teacher(shared, cond_dim=1), normal(20, 1, seed=1)
    distiller = Distiller(flow, n_students, (2,), replace(SHORT, student_inputs=inputs), cond, seed=3)
    for k in range(3):
        pairs, students = distiller.pairs(k), distiller.students
        assert torch.equal(pairs.inputs[0], normal_of(3, k))
        for n, (x, target) in enumerate(zip(pairs.inputs, pairs.targets, strict=True), start=1):
            want = flow.pull(x, pairs.cond, SHORT.teacher_solver, students.subflows(n))
            assert torch.equal(target, want)
            assert not any(tensor.requires_grad for tensor in (x, target))
            if n > 1:
                before = students.step(n - 1, pairs.inputs[n - 2], pairs.cond)
                assert torch.equal(x, before if inputs == "student" else pairs.targets[n - 2])
        distiller.step()


def normal_of(seed: int, step: int) -> Tensor:
    return torch.randn(7, 2, generator=generator(seed, "distill", step), dtype=torch.float64)


@every_inputs
def test_networks_are_asked_at_the_noise_end_of_their_group(inputs: Any) -> None:
    """A training step asks each network once with the pairs' inputs, at one reading of the clock."""
    cond = normal(20, 1, seed=1)
    options = replace(SHORT, student_inputs=inputs)
    distiller = Distiller(teacher(cond_dim=1), 2, (2,), options, cond, [Noting(2), Noting(2)])
    pairs = distiller.pairs(0)
    Noting.asked.clear()
    distiller.step()
    for (x, tau, c), want, place in zip(Noting.asked[-2:], pairs.inputs, (4, 2), strict=True):
        assert torch.equal(x, want)
        assert torch.equal(c, pairs.cond)
        assert tau.tolist() == [SCHEDULE.clock[place]] * 7
    # inputs of its own cost one evaluation more for each student but the last
    assert len(Noting.asked) == (3 if inputs == "student" else 2)


def test_losses_are_those_of_the_paper() -> None:
    """‖(x_n - x_(n-1)) - f(x_(n-1))‖², mean over samples and elements, and one figure a student."""
    distiller = Distiller(teacher(), 2, (2,), SHORT)
    students, pairs = copy.deepcopy(distiller.students), distiller.pairs(0)
    report = distiller.step()
    for n, (x, target) in enumerate(zip(pairs.inputs, pairs.targets, strict=True), start=1):
        moved = students.step(n, x) - x
        assert report.losses[n - 1] == pytest.approx(((target - x) - moved).pow(2).mean().item(), rel=1e-12)
    assert report.step == 1


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_students_of_the_teachers_inputs_train_independently(max_grad_norm: float | None) -> None:
    """Section 5.2: student 2 comes out the same, bit for bit, whatever student 1 is."""
    options, runs = replace(SHORT, max_grad_norm=max_grad_norm), []
    for first in (Affine(2), MLP(2, 8, 1).double()):
        runs.append(distill(teacher(), 2, (2,), options, networks=[first, Affine(2)]).fields[1])
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_students_returned_are_the_moving_average() -> None:
    """Of the weights in training, which stand in the state, with the decay 1 - (1 + step)^-0.75."""
    distiller = Distiller(teacher(), 2, (2,), SHORT)
    average = distiller.state_dict()["networks"]
    average = {name: weight.clone() for name, weight in average.items()}
    while not distiller.done:
        decay = 1 - (1 + distiller.steps_done) ** -0.75
        distiller.step()
        for name, weight in distiller.state_dict()["networks"].items():
            average[name] = decay * average[name] + (1 - decay) * weight
    for name, weight in distiller.students.state_dict().items():
        torch.testing.assert_close(weight, average[name], atol=1e-14, rtol=0)
        assert not torch.equal(weight, distiller.state_dict()["networks"][name])


def test_own_inputs_carry_no_gradient_to_earlier_students() -> None:
    """Student 1 trains alike in both modes, bit for bit: its pairs are the same and no successor's loss reaches it."""
    runs = [distill(teacher(), 2, (2,), replace(SHORT, student_inputs=mode)) for mode in ("teacher", "student")]
    (first, second), (own_first, own_second) = (run.fields for run in runs)
    for a, b in zip(first.parameters(), own_first.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(second.parameters(), own_second.parameters(), strict=True))


def test_own_inputs_give_the_best_student_for_what_stands_before_it() -> None:
    """A first student that can only shift leaves a law that the teacher never visits; the second is affine.

    Least squares of the teacher's pull on that law is what inputs of its own must find, and no affine map, among them
    the one learned on the teacher's marginal, errs less there. Least squares on either law says how much: 0.136 against
    0.168 of mean squared error there, and 0.62 against 0.76 from end to end.
    """
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    data = Mixture(torch.full((2,), 0.5).double(), means, 0.1 * torch.eye(2).double().expand(2, 2, 2))
    flow = ideal_flow(data, Schedule((0.1,)), ["geodesic"] * 2, ["common"] * 2)
    solver, noise = Solver("midpoint", 3), normal(20_000, 2)
    options = replace(OPTIONS, batch_size=256, teacher_solver=solver)
    error, end_to_end = {}, {}
    for mode in ("teacher", "student"):
        networks = [Constant(2), Affine(2)]
        students = distill(flow, 2, (2,), replace(options, student_inputs=mode), networks=networks)
        with torch.no_grad():
            x = students.step(1, noise)
            target = flow.pull(x, solver=solver, subflows=[1])
            error[mode] = (students.step(2, x) - target).pow(2).mean().item()
            end_to_end[mode] = (students.pull(noise) - flow.pull(noise, solver=solver)).pow(2).mean().item()
    features = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    best = features @ torch.linalg.lstsq(features, target).solution
    least = (best - target).pow(2).mean().item()
    assert least < error["student"] < 1.02 * least
    assert error["student"] < 0.9 * error["teacher"]
    assert end_to_end["student"] < 0.9 * end_to_end["teacher"]


@every_count
def test_a_sample_costs_one_evaluation_a_student(n_students: int) -> None:
    students = DistilledFlow([Noting(2) for _ in range(n_students)], SCHEDULE)
    Noting.asked.clear()
    students.sample((3, 2), generator=generator(0, "noise"))
    assert len(Noting.asked) == students.nfe == n_students
    assert students.boundaries == tuple(range(4, -1, -4 // n_students))


def test_sample_is_the_pull_of_the_generators_noise_student_by_student() -> None:
    students, cond = untrained_students(teacher(cond_dim=1), 2), normal(9, 1)
    drawn = students.sample((9, 2), cond, generator(5, "noise"))
    noise = torch.randn(9, 2, generator=generator(5, "noise"), dtype=torch.float64)
    assert torch.equal(drawn, students.pull(noise, cond))
    assert torch.equal(drawn, students.pull(students.pull(noise, cond, [1]), cond, [2]))
