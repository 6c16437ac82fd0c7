"""Students of a sweep's flows beside their teachers: `python -m benchmarks.policy_students`, after `lfm sweep`.

For each training seed of `--methods` in a sweep's folder of one task, its longest training: students of one evaluation
each, trained by Algorithm A.1; then teachers with their own sampler and in Euler steps, and students, on the same
episodes. A label's point is its evaluations of a network. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.task_films import longest
from lfm_policy.data.saved import checkpoints
from lfm_policy.evaluation.comparison import compare
from lfm_policy.evaluation.comparison_plots import draw
from lfm_policy.evaluation.comparison_report import report, to_json
from lfm_policy.evaluation.contest import Contest, prepare_folder
from lfm_policy.evaluation.contestants import Contestant, check_data, check_environment, check_runs, load
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.executor import Executor
from lfm_policy.evaluation.files import replacing, write_json
from lfm_policy.policy import find_checkpoint
from lfm_policy.provenance import provenance
from lfm_policy.training.distillation import DistillConfig, DistillRun
from lfm_policy.training.students import StudentsConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark/pusht"), help="of the sweep's task")
    parser.add_argument("--methods", nargs="+", default=["lfm", "small"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds")
    parser.add_argument("--n_students", nargs="+", type=int, default=[4, 1])
    parser.add_argument("--steps", type=int, default=2000, help="of every student")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the noise that all begin from")
    parser.add_argument("--n_rollouts", type=int, default=100)
    parser.add_argument("--n_procs", type=int, default=2)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/students/pusht"))
    parser.add_argument("--results", type=Path, default=Path("results/students"))
    options = parser.parse_args()
    teachers = {name: [longest(options.folder / name, seed) for seed in options.seeds] for name in options.methods}
    students = {
        (name, n): [
            distillation(run, options.output_dir / name / f"{n}_of_{run.name}", n, options.steps) for run in runs
        ]
        for name, runs in teachers.items()
        for n in options.n_students
    }
    distil([config for configs in students.values() for config in configs], options.n_procs)

    distilled = {name: [Path(c.output_dir) for c in cs] for name, cs in students.items()}
    contestants = _contestants(teachers, distilled, options.temperature)
    everyone = [run for runs in contestants.values() for run in runs]
    check_data(everyone, allow=False)
    for runs in contestants.values():
        check_runs(runs)
    contest = Contest(options.output_dir, check_environment(everyone), Executor(n_procs=options.n_procs), progress=True)
    prepare_folder(contest.folder, overwrite=False)
    rows = contest.evaluate(contestants, range(100_000, 100_000 + options.n_rollouts))
    notes = [f"Students: {options.steps} batches of 32 each, from their teacher's weights"]
    comparison = compare(rows, notes=[*notes, f"All at temperature {options.temperature:g}"])
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / options.folder.name
    write_json(path.with_suffix(".json"), {**provenance(), **to_json(comparison)})
    with replacing(path.with_suffix(".txt")) as temporary:
        temporary.write_text(report(comparison))
    draw(comparison, path.with_suffix(".png"))
    print(report(comparison))


def distillation(teacher: Path, folder: Path, n_students: int, steps: int) -> DistillConfig:
    """Students of a run, at the rate and batches that `configs/sweep/pusht.yaml` trains small networks with."""
    options = StudentsConfig(steps=steps, batch_size=32, learning_rate=1.2e-3, warmup_steps=100, teacher_steps=2)
    return DistillConfig(str(teacher), str(folder), n_students, distillation=options, threads=1)


def distil(configs: Sequence[DistillConfig], n_procs: int) -> None:
    """Distil all that are not done yet, each in a process of one thread."""
    with multiprocessing.get_context("spawn").Pool(n_procs, torch.set_num_threads, (1,)) as pool:
        for folder in pool.imap_unordered(_distil, configs):
            print(f"distilled {folder}", flush=True)


def _distil(config: DistillConfig) -> Path:
    begun = bool(checkpoints(Path(config.output_dir)))
    return DistillRun(replace(config, resume=begun, overwrite=not begun), lambda line: None).run()


def _contestants(
    teachers: Mapping[str, Sequence[Path]], students: Mapping[tuple[str, int], Sequence[Path]], temperature: float
) -> dict[str, list[Contestant]]:
    """Training runs by label: `lfm@16` with their own sampler, `lfm@4` in Euler steps, `lfm.students@4`."""
    found: dict[str, list[Contestant]] = {}

    def add(name: str, runs: Sequence[Path], solver: str | None = None, solver_steps: int | None = None) -> None:
        loading = partial(load, name, env=EnvSpec(), solver=solver, solver_steps=solver_steps, temperature=temperature)
        for contestant in (loading(find_checkpoint(run)) for run in runs):
            label = f"{name}@{contestant.nfe}"
            found.setdefault(label, []).append(replace(contestant, label=label))

    for name, runs in teachers.items():
        add(name, runs)
        add(name, runs, "euler", 1)
    for (name, _), runs in students.items():
        add(f"{name}.students", runs)
    return found


if __name__ == "__main__":
    main()
