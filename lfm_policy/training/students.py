"""What every distillation run has in common: how students are trained, and what is told of their losses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from lfm_policy.flow import DistillOptions, LFMError, Optimization, Solver
from lfm_policy.flow.distill import DistillReport, InputsName
from lfm_policy.flow.solver import MethodName


@dataclass(frozen=True)
class StudentsConfig(Optimization):
    """How students are trained (Algorithm A.1); steps and schedules are per student.

    Args:
        steps: of every student.
        teacher_method: solver of the pulls that are learned.
        teacher_steps: its steps per sub-flow.
        student_inputs: `teacher`, or `student`: learn on what the students before make of noise.
        from_teacher: start from the teacher's weights, where sizes allow it.
        log_every: steps between log entries.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 10_000
    teacher_method: MethodName = "midpoint"
    teacher_steps: int = 4
    student_inputs: InputsName = "teacher"
    from_teacher: bool = True
    log_every: int = 50
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise LFMError(f"distillation.{name}: {getattr(self, name)} must be 1 or more")
        try:
            self.options()
        except LFMError as error:
            raise LFMError(f"distillation.{error}") from error

    def options(self) -> DistillOptions:
        """What trains the students."""
        return DistillOptions(
            **{entry.name: getattr(self, entry.name) for entry in fields(Optimization)},
            steps=self.steps,
            teacher_solver=Solver(self.teacher_method, self.teacher_steps),
            student_inputs=self.student_inputs,
            from_teacher=self.from_teacher,
        )


def told(reports: list[DistillReport]) -> tuple[str, dict[str, Any]]:
    """A line and an entry of the log on the mean losses of some steps."""
    means = [sum(losses) / len(reports) for losses in zip(*(report.losses for report in reports), strict=True)]
    entry: dict[str, Any] = {f"loss_{n}": loss for n, loss in enumerate(means, start=1)}
    losses = ", ".join(f"{loss:.4f}" for loss in means)
    return f"losses of students {losses}", {**entry, "lr": reports[-1].learning_rate}
