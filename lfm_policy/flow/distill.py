"""Algorithm A.1: distil a chain of sub-flows into fewer networks that need one evaluation each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lfm_policy.flow.device import training_precision
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.local_flow import LocalFlow
from lfm_policy.flow.optimization import Descent, Optimization
from lfm_policy.flow.random import named_generator, named_seed, normal
from lfm_policy.flow.schedule import Schedule
from lfm_policy.flow.solver import Solver
from lfm_policy.flow.source import BatchOrder, Source, TensorSource, parts

InputsName = Literal["teacher", "student"]


def boundaries(n_subflows: int, n_students: int) -> tuple[int, ...]:
    """Boundaries N, N - k, …, 0 between the N' = N/k students of N sub-flows, from noise to data; N' + 1 numbers."""
    if n_students < 1 or n_subflows % n_students:
        possible = ", ".join(str(n) for n in range(1, n_subflows + 1) if n_subflows % n == 0)
        raise LFMError(f"n_students: {n_students} does not divide the chain's {n_subflows} sub-flows; take {possible}")
    return tuple(range(n_subflows, -1, -(n_subflows // n_students)))


class DistilledFlow(nn.Module):
    """N' = N/k students in sequence, each of which takes k sub-flows of a chain in one evaluation.

    Student n = 1 … N' maps x at boundary N - k(n - 1) of the chain to x at boundary N - kn, from noise towards
    data, as x + f(x) with f(x) = -h v(x, τ, cond): h is the length of those k stretches on the chain's clock, τ
    their noise end, and v (B, *shape) a network of a sub-flow's signature. So a copy of a sub-flow's own network
    is one Euler step of it. Give N' networks, or one that all students share. There is no likelihood: a
    student need not be invertible.

    Attributes:
        boundaries: the chain's boundaries N, N - k, …, 0 that samples stand on, from noise to data.
    """

    def __init__(self, fields: Sequence[nn.Module], schedule: Schedule, n_students: int | None = None) -> None:
        super().__init__()
        count = len(fields) if n_students is None else n_students
        self.boundaries = boundaries(schedule.n_subflows, count)
        if len(fields) not in (1, count):
            raise LFMError(f"networks: {len(fields)} networks for {count} students; give one each, or one for all")
        self.fields = nn.ModuleList(fields)
        self.schedule, self.n_students = schedule, count

    @property
    def nfe(self) -> int:
        """Network evaluations of a sample: N'."""
        return self.n_students

    def subflows(self, n: int) -> range:
        """Sub-flows that student n = 1 … N' stands for, in the order in which a pull takes them."""
        return range(self.boundaries[n - 1], self.boundaries[n], -1)

    def field(self, n: int) -> nn.Module:
        """Network of student n = 1 … N'."""
        return self.fields[0 if len(self.fields) == 1 else n - 1]

    def step(self, n: int, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Student n's map of x (B, *shape), with cond (B, C) or None."""
        right, left = (self.schedule.clock[boundary] for boundary in self.boundaries[n - 1 : n + 1])
        tau = torch.full((x.shape[0],), right, dtype=x.dtype, device=x.device)
        return x - (right - left) * self.field(n)(x, tau, cond)

    def pull(self, x: Tensor, cond: Tensor | None = None, students: Sequence[int] | None = None) -> Tensor:
        """Noise x (B, *shape) to data through all students; `students` names other n, in their order."""
        for n in range(1, self.n_students + 1) if students is None else students:
            x = self.step(n, x, cond)
        return x

    def sample(
        self, shape: tuple[int, ...], cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples (B, *shape) pulled from fresh N(0, I) noise, with cond (B, C) or None."""
        return self.pull(normal(shape, next(self.parameters()), generator), cond)


@dataclass(frozen=True)
class DistillOptions(Optimization):
    """How students are trained; `steps` and all of `Optimization` are per student.

    Args:
        steps: of every student; a step takes one of each.
        teacher_solver: of the pulls that are learned; it costs training time only, so it may be finer than a sampler.
        student_inputs: `teacher` (the paper): student n learns on what the teacher makes of noise. `student`: on what
            the students before it make of it, which is what it will be given.
        from_teacher: start from the teacher's weights; else from fresh ones. Networks of the caller's are left as
            they are.
    """

    steps: int = 10_000
    teacher_solver: Solver = field(default_factory=lambda: Solver("midpoint", steps=4))
    student_inputs: InputsName = "teacher"
    from_teacher: bool = True

    def __post_init__(self) -> None:
        self.check()
        if self.steps <= 0:
            raise LFMError(f"steps: {self.steps} must be positive")
        if self.student_inputs not in get_args(InputsName):
            raise LFMError(f"student_inputs: '{self.student_inputs}' is not one of {', '.join(get_args(InputsName))}")


class Pairs(NamedTuple):
    """Inputs and targets (B, *shape) of students 1 … N' in their order, and their common conditions (B, C) or None."""

    inputs: list[Tensor]
    targets: list[Tensor]
    cond: Tensor | None


class DistillReport(NamedTuple):
    """What a training step did: its number (from 1), the loss of each student and the learning rate."""

    step: int
    losses: tuple[float, ...]
    learning_rate: float


class Distiller:
    """Algorithm A.1 as a resumable sequence of steps, all students at once.

    `students` always holds the EMA weights, those that sample; the weights being trained live here. Pairs are never
    kept: a step pulls fresh noise once through the teacher, which gives every student its pair. So a student cannot
    learn a set of pairs by heart, and its training loss is its held-out loss. Every draw is a function of (seed, step),
    so that a restored state continues bit for bit.
    """

    def __init__(
        self,
        flow: LocalFlow,
        n_students: int,
        shape: tuple[int, ...],
        options: DistillOptions | None = None,
        cond: Tensor | Source | None = None,
        networks: Sequence[nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        self.teacher, self.shape, self.seed = flow, shape, seed
        self.options = options = options or DistillOptions()
        given = DistilledFlow(networks, flow.schedule, n_students) if networks is not None else None
        self.students = given or untrained_students(flow, n_students, None if options.from_teacher else seed)
        self._source = TensorSource(cond, cond) if isinstance(cond, Tensor) else cond
        if self._source is not None and len(self._source) == 0:
            raise LFMError("cond: there are no conditions to draw from")
        self.steps_done = 0
        self._trained = copy.deepcopy(self.students).train()
        # Adam treats every weight alone: one optimiser over all students is one for each
        self._descent = Descent(self._trained, self.students, options, list(self._trained.fields))
        count = 1 if self._source is None else len(self._source)
        self._order = BatchOrder(count, options.batch_size, seed)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.options.steps

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.steps_done == self.total_steps

    @torch.no_grad()
    def pairs(self, step: int) -> Pairs:
        """What the students learn at `step` = 0, 1, …: x at boundary N - k(n - 1), and the teacher's pull of it.

        With the students' own inputs, the EMA weights make them: those are what will stand before student n when it
        samples, and being slow they give it a steady law to learn. No gradient flows through them: student m < n
        is to match the teacher, not to make its successor's task easy.
        """
        options, students = self.options, self.students
        cond = None if self._source is None else self._source.batch(self._order(step))[1]
        generator = named_generator(self.seed, "distill", step)
        x = normal((options.batch_size, *self.shape), next(students.parameters()), generator)
        inputs, targets = [x], [self._target(1, x, cond)]
        for n in range(2, students.n_students + 1):
            own = options.student_inputs == "student"
            inputs.append(students.step(n - 1, inputs[-1], cond) if own else targets[-1])
            targets.append(self._target(n, inputs[-1], cond))
        return Pairs(inputs, targets, cond)

    def step(self) -> DistillReport:
        """One optimiser step of every student: ‖x + f_n(x) - target‖², mean over samples and elements.

        Raises LFMError where a loss is not finite.
        """
        k, n = self.steps_done, self.students.n_students
        values = torch.zeros(n, dtype=torch.float64)
        pairs = self.pairs(k)
        self._descent.accumulate(self._losses(pairs, values))
        self._check_finite(tuple(values.tolist()), pairs.targets)
        rate = self._descent.update(k, self.options.steps)
        self.steps_done += 1
        return DistillReport(k + 1, tuple(values.tolist()), rate)

    def state_dict(self) -> dict[str, Any]:
        """What continues the run, beside the students' own weights."""
        return {
            "steps_done": self.steps_done,
            "networks": self._trained.state_dict(),
            "optimizer": self._descent.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the students' weights must have been restored, before or after."""
        self.steps_done = state["steps_done"]
        self._trained.load_state_dict(state["networks"])
        self._descent.optimizer.load_state_dict(state["optimizer"])

    def _losses(self, pairs: Pairs, values: Tensor) -> Iterator[Tensor]:
        """Sums over students of a student's loss, in `accumulate` pieces; each student's is added up in `values`."""
        count = len(pairs.inputs[0])
        for part in parts(count, self.options.accumulate):
            cond = None if pairs.cond is None else pairs.cond[part]
            with training_precision(pairs.inputs[0].device, self.options.autocast):
                ends = [self._trained.step(n, x[part], cond) for n, x in enumerate(pairs.inputs, start=1)]
            share = len(ends[0]) / count
            losses = [(end - t[part]).pow(2).mean() * share for end, t in zip(ends, pairs.targets, strict=True)]
            stacked = torch.stack(losses)
            values += stacked.detach().cpu()
            yield stacked.sum()

    def _target(self, n: int, x: Tensor, cond: Tensor | None) -> Tensor:
        return self.teacher.pull(x, cond, self.options.teacher_solver, self.students.subflows(n))

    def _check_finite(self, losses: tuple[float, ...], targets: list[Tensor]) -> None:
        for n, (loss, target) in enumerate(zip(losses, targets, strict=True), start=1):
            if not math.isfinite(loss):
                remedy = f"lower learning_rate ({self.options.learning_rate:g})"
                if not target.isfinite().all():
                    remedy = "the teacher's own pull is not finite: try another teacher_solver, or train it again"
                raise LFMError(f"loss of student {n} is {loss} at step {self.steps_done + 1}; {remedy}")


def distill(
    flow: LocalFlow,
    n_students: int,
    shape: tuple[int, ...],
    options: DistillOptions | None = None,
    cond: Tensor | Source | None = None,
    networks: Sequence[nn.Module] | None = None,
    seed: int = 0,
    on_step: Callable[[DistillReport], None] | None = None,
) -> DistilledFlow:
    """Distil a fitted flow of N sub-flows into `n_students` = N/k networks by Algorithm A.1.

    Args:
        flow: the teacher; it is not changed.
        n_students: N', a divisor of N and the network evaluations of a sample.
        shape: of one sample.
        options: see `DistillOptions`.
        cond: conditions (M, C) to draw from, or a `Source` of them; those of the training data, for a policy.
        networks: N' students or one for all, of any architecture; the teacher's if not given.
        seed: of all draws.
        on_step: hears of every step.

    Returns the students with their EMA weights. Raises LFMError where N' does not divide N or a loss is not finite.
    """
    distiller = Distiller(flow, n_students, shape, options, cond, networks, seed)
    while not distiller.done:
        report = distiller.step()
        if on_step:
            on_step(report)
    return distiller.students


def untrained_students(flow: LocalFlow, n_students: int, fresh: int | None = None) -> DistilledFlow:
    """Students with copies of the teacher's networks, or with weights drawn anew from the seed `fresh`.

    Student n gets the network of the sub-flow at the noise end of its group, where it is evaluated; a network that
    all sub-flows share becomes one that all students share. Untrained copies are the teacher's Euler steps.
    """
    places = boundaries(flow.n_subflows, n_students)[: 1 if len(flow.fields) == 1 else n_students]
    fields = [copy.deepcopy(flow.field(n)) for n in places]
    if fresh is not None:
        for n, network in enumerate(fields, start=1):
            _draw_weights(network, named_seed(fresh, "students", n))
    return DistilledFlow(fields, flow.schedule, n_students)


def _draw_weights(network: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's initialisers know only the global generator
        for name, module in network.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif any(True for _ in module.parameters(recurse=False)):
                raise LFMError(
                    f"from_teacher: '{name}' ({type(module).__name__}) has no reset_parameters to draw new weights; "
                    "give the students as networks"
                )
