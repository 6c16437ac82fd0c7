"""`lfm distill`: distil a trained policy into students of one evaluation each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lfm_policy.cli.parser import make_parser

if TYPE_CHECKING:
    from lfm_policy.training.distillation import DistillConfig

ABOUT = "Distil a trained Local Flow Matching policy into students of one evaluation each."


def main(arguments: list[str], prog: str) -> int:
    """Distil as the command line says; 130 after Ctrl-C, with a checkpoint to resume from."""
    return distill(parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> DistillConfig:
    """The config of a command line: `--config FILE`, then dotted overrides."""
    from lfm_policy.training.distillation import DistillConfig

    parser = make_parser(prog, ABOUT, with_config=True)
    parser.add_class_arguments(DistillConfig)
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config", None)
    return DistillConfig(**values)


def distill(config: DistillConfig) -> int:
    """Distil, and say what a chunk costs before and after."""
    from lfm_policy.training.distillation import DistillRun

    run = DistillRun(config)
    teacher, students = run.teacher.policy, run.policy
    print(
        f"{students.nfe} students; a chunk takes {students.nfe} evaluations and {students.multiply_adds:,} "
        f"multiply-adds, the teacher's {teacher.nfe} and {teacher.multiply_adds:,}"
    )
    folder = run.run()
    if not run.done:
        print(f"stopped; {folder} is complete up to here, continue with --resume true")
        return 130 if run.interrupted else 0
    print(f"distilled; checkpoint {folder}")
    return 0
