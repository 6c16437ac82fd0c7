"""`lfm compare`: roll policies out on the same episodes and say which is better, where that can be told."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lfm_policy.cli.parser import make_parser
from lfm_policy.flow.errors import LFMError

if TYPE_CHECKING:
    from lfm_policy.evaluation.comparison import Comparison
    from lfm_policy.evaluation.contest import Contest
    from lfm_policy.evaluation.contestants import Contestant, Entry
    from lfm_policy.evaluation.environment import EnvSpec

ABOUT = "Roll policies out on the same episodes: success rates, paired differences, tests, curves."
POLICIES = "[name=]PATH[,PATH...]: a checkpoint, a run's folder or a training YAML; several are training seeds"


def main(arguments: list[str], prog: str) -> int:
    """Compare as the command line says."""
    parser = make_parser(prog, ABOUT)
    parser.add_argument("policies", nargs="+", help=POLICIES)
    parser.add_function_arguments(compare, skip={"policies"})
    return compare(**parser.instantiate(parser.parse_args(arguments)).as_dict())


def compare(
    policies: list[str],
    output_dir: str,
    n_rollouts: int = 200,
    seed: int = 100_000,
    n_procs: int = 1,
    executor: Literal["processes", "ray"] = "processes",
    ray_address: str | None = None,
    baseline: str | None = None,
    solver_steps: str = "",
    temperatures: str = "",
    select_n: int = 0,
    select_seed: int = 50_000,
    env_id: str = "",
    env_kwargs: dict[str, Any] | None = None,
    observation: dict[str, str] | None = None,
    success_key: str = "",
    max_steps: int | None = None,
    allow_different_data: bool = False,
    allow_different_actions: bool = False,
    overwrite: bool = False,
) -> int:
    """Compare policies on the same episodes.

    Args:
        policies: [name=]PATH[,PATH...] each, or name@point=PATH for points of a curve.
        output_dir: folder for comparison.json, .txt and .png, and rows/; what rows are there are not rolled out again.
        n_rollouts: number of episodes, the same for all.
        seed: seed of the first episode; the others follow. A seed decides first state and policy noise.
        n_procs: processes; results do not depend on it.
        executor: processes of this machine, or workers of a Ray cluster.
        ray_address: of a running Ray cluster; one is started on this machine otherwise.
        baseline: name that the others are compared with; all pairs without it.
        solver_steps: numbers of solver steps to roll every policy out with, as 1,2,4,8.
        temperatures: of the noise that chunks begin from, to roll every policy out at, as 1,0.5,0.
        select_n: episodes by which the best of several paths is chosen; 0 takes them as training seeds.
        select_seed: first of their seeds, which must not be reported.
        env_id: gymnasium id of another environment than the checkpoints' own; they have to fit.
        env_kwargs: arguments of the environment that differ from the checkpoints'.
        observation: where the policies' keys come from, {hand: "state[0:3]"}; a plain vector is called state.
        success_key: what the environment calls success, or terminated; default is is_success or success.
        max_steps: steps after which an episode ends; default is the environment's own limit.
        allow_different_data: compare policies trained on different data, and say so.
        allow_different_actions: compare policies by displacements with policies by absolute goals, and say so.
        overwrite: replace the comparison in output_dir, its rows too.
    """
    _check_numbers(n_rollouts=(n_rollouts, 1), seed=(seed, 0), select_n=(select_n, 0), select_seed=(select_seed, 0))
    steps, warmths = parse_steps(solver_steps), parse_temperatures(temperatures)

    from lfm_policy.evaluation.contest import Contest, check_file_names, prepare_folder
    from lfm_policy.evaluation.contestants import (
        action_notes,
        check_data,
        check_environment,
        check_seeds,
        parse_entries,
        unfinished_notes,
    )
    from lfm_policy.evaluation.environment import EnvSpec
    from lfm_policy.evaluation.executor import Executor

    where = Executor(executor, n_procs, ray_address)
    entries = parse_entries(policies)
    if len(entries) < 2 and len(steps) < 2 and len(warmths) < 2:
        raise LFMError("compare: one policy alone; give two or more, or several --solver_steps or --temperatures")
    env = EnvSpec(env_id, env_kwargs or {}, observation or {}, success_key)
    loaded = _contestants(entries, env, max_steps, [], [])
    every = [contestant for runs in loaded.values() for contestant in runs]
    _check_several(loaded, select_n)
    selecting = bool(select_n)
    reported = range(seed, seed + n_rollouts)
    selected = range(select_seed, select_seed + select_n) if selecting else range(0)
    check_seeds(every, reported, selected)
    notes = [f"trained on different data ({told})" for told in check_data(every, allow_different_data)]
    limit = check_environment(every, allow_different_actions)
    contest = Contest(Path(output_dir), limit, where, progress=True)
    sampled = _contestants(entries, env, max_steps, steps, warmths)
    if len(sampled) < 2:
        raise LFMError(
            f"compare: {next(iter(sampled))} alone; it has no sampler to choose, give another policy beside it"
        )
    _check_baseline(baseline, list(sampled))
    check_file_names({label: runs[:1] if selecting else runs for label, runs in sampled.items()})

    prepare_folder(contest.folder, overwrite)
    if selecting:
        entries, told = _selected(contest, entries, loaded, selected)
        notes += told
        sampled = _contestants(entries, env, max_steps, steps, warmths)
    everyone = [run for runs in sampled.values() for run in runs]
    notes += action_notes(everyone) + unfinished_notes(everyone)
    from lfm_policy.evaluation.comparison import compare as compared

    _write(compared(contest.evaluate(sampled, reported), baseline, notes), contest.folder)
    return 0


def parse_steps(text: str) -> list[int]:
    """[1, 2, 4] of "1,2,4"; LFMError for anything else than positive whole numbers, each once."""
    words = _words(text)
    if not all(word.isdecimal() and int(word) for word in words):
        raise LFMError(f"--solver_steps {text}: must be whole numbers of 1 or more, as 1,2,4")
    return list(dict.fromkeys(map(int, words)))


def parse_temperatures(text: str) -> list[float]:
    """[1.0, 0.5] of "1,0.5"; LFMError for anything else than numbers of 0 or more, each once."""
    words = _words(text)
    if not all(re.fullmatch(r"\d+(\.\d+)?", word) for word in words):
        raise LFMError(f"--temperatures {text}: must be numbers of 0 or more, as 1,0.5")
    return list(dict.fromkeys(map(float, words)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]


def _check_numbers(**values: tuple[int, int]) -> None:
    for option, (value, least) in values.items():
        if value < least:
            raise LFMError(f"--{option} {value}: must be {least} or more")


def _check_several(loaded: dict[str, list[Contestant]], select_n: int) -> None:
    """Several paths of one name are candidates to choose from with `select_n`, training runs of one method without."""
    from lfm_policy.evaluation.contestants import check_runs

    if select_n and all(len(runs) == 1 for runs in loaded.values()):
        raise LFMError(
            f"--select_n {select_n}: no policy has several paths to choose from; give them as name=PATH,PATH"
        )
    for runs in () if select_n else loaded.values():
        check_runs(runs)


def _check_baseline(baseline: str | None, labels: list[str]) -> None:
    if baseline is not None and not any(baseline in (label, label.partition("@")[0]) for label in labels):
        raise LFMError(f"--baseline {baseline}: is not compared; choose from {', '.join(labels)}")


def _contestants(
    entries: list[Entry], env: EnvSpec, max_steps: int | None, steps: list[int], temperatures: list[float]
) -> dict[str, list[Contestant]]:
    """Every policy in every number of solver steps at every temperature, once where it has none or none are given."""
    from lfm_policy.evaluation.contestants import load

    found: dict[str, list[Contestant]] = {}
    for entry in entries:
        for count, warmth in itertools.product(steps or (None,), temperatures or (None,)):
            runs = [load(entry.label, folder, env, max_steps, count, temperature=warmth) for folder in entry.folders]
            found.setdefault(runs[0].label, runs)
    return found


def _selected(
    contest: Contest, entries: list[Entry], loaded: dict[str, list[Contestant]], seeds: range
) -> tuple[list[Entry], list[str]]:
    """The entries with the best of several candidates alone, and what to say of that."""
    from lfm_policy.provenance import without_cwd

    candidates = {label: runs for label, runs in loaded.items() if len(runs) > 1}
    chosen, notes = contest.select(candidates, seeds), []
    kept = {}
    for label, index in chosen.items():
        kept[label] = (loaded[label][index].folder,)
        folder = without_cwd(str(kept[label][0]))
        which = f"the best of {len(candidates[label])} on {len(seeds)} other episodes"
        notes.append(f"{label} is {folder}, {which}, seeds {seeds[0]} to {seeds[-1]}")
    return [replace(entry, folders=kept.get(entry.label, entry.folders)) for entry in entries], notes


def _write(comparison: Comparison, folder: Path) -> None:
    """Write the tables, the figures and the picture, then print the tables: whoever reads them may go away."""
    from lfm_policy.evaluation.comparison_plots import draw
    from lfm_policy.evaluation.comparison_report import report, to_json
    from lfm_policy.evaluation.files import replacing, write_json
    from lfm_policy.provenance import provenance

    text = report(comparison)
    write_json(folder / "comparison.json", {**provenance(), **to_json(comparison)})
    with replacing(folder / "comparison.txt") as temporary:
        temporary.write_text(text)
    draw(comparison, folder / "comparison.png")
    print(text)
    print(f"written: comparison.json, comparison.txt, comparison.png and rows/ in {folder}")
