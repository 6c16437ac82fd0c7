"""`lfm sweep`: tasks × methods × seeds, from demonstrations to comparisons; resumes where it stopped."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lfm_policy.cli.parser import make_parser
from lfm_policy.flow.errors import LFMError
from lfm_policy.sweep.demonstrations import check_made, check_seeds
from lfm_policy.sweep.plan import SweepConfig, data_file, plan_runs
from lfm_policy.sweep.run import task_folder

if TYPE_CHECKING:
    from lfm_policy.evaluation.comparison import Comparison
    from lfm_policy.sweep.plan import Run

ABOUT = "Collect, train, roll out and compare methods on tasks; what is done already is not done again."


def main(arguments: list[str], prog: str) -> int:
    """Sweep as the command line says: `--config FILE`, then dotted overrides."""
    parser = make_parser(prog, ABOUT, with_config=True)
    parser.add_class_arguments(SweepConfig)
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config", None)
    return sweep(SweepConfig(**values))


def sweep(config: SweepConfig, progress: bool = True) -> int:
    """Run every task of a sweep to its comparison."""
    from lfm_policy.cli.train import parse
    from lfm_policy.sweep.run import run_task

    # everything a user can get wrong is refused before the first demonstration is collected
    runs = plan_runs(config, lambda flags: parse(flags, "lfm sweep"))
    _check(config, runs)
    for task in config.tasks:
        _make_folder("output_dir", task_folder(config, task))
        make_data(config, task)
        check_seeds(data_file(config, task), _rollout_seeds(config, task))
        report = partial(write, config=config)
        run_task(config, task, [run for run in runs if run.task == task], report, _say, progress)
    return 0


def make_data(config: SweepConfig, task: str) -> None:
    """Collect or convert a task's demonstrations, unless they are there; the results get what collecting came to."""
    from lfm_policy.cli.collect import env_id_of_task
    from lfm_policy.cli.convert import convert

    path, wanted = data_file(config, task), config.tasks[task]
    figures = path.with_suffix(".json")
    if not path.is_file() and wanted.source is not None:
        convert(wanted.source, str(path), env_id=env_id_of_task(wanted.task), n_procs=config.n_procs)
    elif not path.is_file() and wanted.data is None:
        figures.unlink(missing_ok=True)  # of demonstrations that are gone
        _collect(config, task, path, figures)
    if config.results and wanted.data is None and figures.is_file():
        _make_folder("results", Path(config.results))
        shutil.copyfile(figures, Path(config.results) / f"{task}_demonstrations.json")


def _collect(config: SweepConfig, task: str, path: Path, figures: Path) -> None:
    from lfm_policy.cli.collect import env_id_of_task, print_collected
    from lfm_policy.evaluation.attempts import ANEW, RESUME, attempts_folder
    from lfm_policy.evaluation.collect import NAME_ONE, record_demonstrations
    from lfm_policy.evaluation.environment import EnvSpec
    from lfm_policy.evaluation.files import write_json

    wanted, place = config.tasks[task], config.place()
    env = EnvSpec(env_id_of_task(wanted.task))
    try:
        collected = record_demonstrations(path, env, wanted.n_demonstrations, n_procs=place, resume=True, progress=True)
    except LFMError as error:
        told = str(error).replace(RESUME, "the same command goes on from there")
        told = told.replace(ANEW, f"remove {attempts_folder(path)}")
        told = told.replace(NAME_ONE, "give its demonstrations as data or source")
        raise LFMError(f"tasks.{task}: {told}") from error
    except KeyboardInterrupt:
        if (folder := attempts_folder(path)).exists():
            _say(f"{folder}: keeps the finished attempts; the same command goes on from there")
        raise
    print_collected(collected)
    write_json(figures, collected.to_json())


def write(task: str, comparison: Comparison, is_whole: bool, config: SweepConfig) -> None:
    """Print a comparison, and write it as JSON, text and picture; `results` gets whole ones only."""
    from lfm_policy.evaluation.comparison_plots import draw
    from lfm_policy.evaluation.comparison_report import report, to_json
    from lfm_policy.evaluation.files import replacing, write_json
    from lfm_policy.provenance import provenance

    folders = {task_folder(config, task): "comparison"}
    if config.results and is_whole:
        folders[Path(config.results)] = task
    text = report(comparison)
    for folder, name in folders.items():
        _make_folder("results", folder)
        write_json(folder / f"{name}.json", {**provenance(), **to_json(comparison)})
        with replacing(folder / f"{name}.txt") as temporary:
            temporary.write_text(text)
        draw(comparison, folder / f"{name}.png")
    print(f"\n{task}: {text}", flush=True)  # at last: whoever reads it may go away


def _check(config: SweepConfig, runs: Sequence[Run]) -> None:
    """Raise LFMError for what would fail only after hours: missing recordings, unknown tasks, impossible networks."""
    import gymnasium

    from lfm_policy.cli.collect import env_id_of_task
    from lfm_policy.data.plugins import register_environments
    from lfm_policy.evaluation.collect import MAX_ATTEMPTS
    from lfm_policy.flow.device import check_device
    from lfm_policy.policy.network import check_horizon

    register_environments()
    for name, task in config.tasks.items():
        recording = task.data or (None if data_file(config, name).is_file() else task.source)
        if recording is not None and not Path(recording).exists():
            raise LFMError(f"tasks.{name}: {recording} does not exist; give the demonstrations' own path")
        try:
            module, _, env_id = env_id_of_task(task.task).rpartition(":")
            if module:
                importlib.import_module(module)
            gymnasium.spec(env_id)
        except (gymnasium.error.Error, ImportError) as error:
            raise LFMError(f"tasks.{name}: task {task.task} is no environment ({error})") from error
        path, seeds = data_file(config, name), _rollout_seeds(config, name)
        if task.data is None and path.is_file():
            check_made(name, path, task, env_id_of_task(task.task))
        if path.is_file():
            check_seeds(path, seeds)
        elif task.source is None and seeds.start < MAX_ATTEMPTS * task.n_demonstrations:
            least = MAX_ATTEMPTS * task.n_demonstrations
            raise LFMError(f"rollout_seed: {seeds.start} may be a seed of demonstrations; choose {least} or more")
    for run in runs:
        check_device(run.config.device)
        check_horizon(run.config.policy.horizon, run.config.network)


def _rollout_seeds(config: SweepConfig, task: str) -> range:
    return range(config.rollout_seed, config.rollout_seed + config.tasks[task].n_rollouts)


def _make_folder(field: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LFMError(f"{field}: {folder} cannot be made ({error.strerror}); choose another") from error


_say: Callable[[str], None] = partial(print, flush=True)
