"""Rollouts of a sweep's runs: every row kept with its run as it comes, and a comparison of what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lfm_policy.evaluation.comparison import Comparison, Evaluated, compare
from lfm_policy.evaluation.contestants import Contestant, check_environment, load
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.executor import Executor
from lfm_policy.evaluation.rows import ANEW, RowStore, roll_out
from lfm_policy.flow import LFMError
from lfm_policy.policy import find_checkpoint
from lfm_policy.provenance import without_cwd
from lfm_policy.sweep.plan import Run, Sampler
from lfm_policy.sweep.training import ROWS, training_seconds


def evaluate_runs(runs: Sequence[Run], seeds: range, executor: Executor, progress: bool) -> dict[str, list[Evaluated]]:
    """Rows of every run and sampler on `seeds`, by label; those that are there are not rolled out again."""
    loaded = [(run, sampler, _load(run, sampler)) for run in runs for sampler in run.samplers]
    limit = check_environment([contestant for *_, contestant in loaded])
    found: dict[str, list[Evaluated]] = {}
    for run, sampler, contestant in loaded:
        file = run.folder / ROWS / f"{sampler.name or 'own'}.jsonl"
        try:
            store = RowStore(file, contestant.identity(limit))
        except LFMError as error:
            told = str(error).removesuffix(ANEW)
            raise LFMError(f"{told}remove that file, and its episodes will be run again") from error
        rows = roll_out(store, contestant.job, seeds, executor, progress, f"{label(run, sampler)}, seed {run.seed}")
        evaluated = Evaluated(
            contestant.label,
            rows,
            store.identity,
            run.seed,
            contestant.nfe,
            contestant.multiply_adds,
            contestant.step,
            contestant.epochs,
            without_cwd(str(contestant.folder)),
            without_cwd(str(store.path)),
        )
        found.setdefault(contestant.label, []).append(evaluated)
    return found


def label(run: Run, sampler: Sampler) -> str:
    """`lfm@0.25.euler1`: the method, its budget if there are several, its sampler if it is not the checkpoint's own."""
    points = [f"{run.budget:g}"] if run.has_budgets else []
    points += [sampler.name] if sampler.name else []
    return "@".join([run.method, ".".join(points)]) if points else run.method


def _load(run: Run, sampler: Sampler) -> Contestant:
    folder = find_checkpoint(run.folder)
    contestant = load(
        label(run, Sampler()), folder, EnvSpec(), None, sampler.steps, sampler.method, sampler.temperature
    )
    return replace(contestant, label=label(run, sampler))


def summarise(methods: dict[str, list[Evaluated]], runs: Sequence[Run], baseline: str) -> Comparison:
    """What the rows say, with the time that training took."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        seconds.setdefault(label(run, Sampler()), []).append(training_seconds(run.folder))
    told = ", ".join(f"{name} {sum(values) / len(values):.0f}" for name, values in seconds.items())
    return compare(methods, baseline or None, [f"Seconds of training on one thread, mean of training runs: {told}"])
