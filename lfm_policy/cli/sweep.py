"""`lfm sweep`: tasks × methods × seeds, from demonstrations to comparisons; resumes where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lfm_policy.cli.parser import make_parser
from lfm_policy.sweep.plan import SweepConfig, data_file, plan_runs

if TYPE_CHECKING:
    from lfm_policy.evaluation.comparison import Comparison

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
    from lfm_policy.sweep.run import run_task, task_folder

    # everything a user can get wrong is refused before the first demonstration is collected
    runs = plan_runs(config, lambda flags: parse(flags, "lfm sweep"))
    for task in config.tasks:
        task_folder(config, task).mkdir(parents=True, exist_ok=True)
        make_data(config, task)
        report = partial(write, folders=_folders(config, task))
        run_task(config, task, [run for run in runs if run.task == task], report, _say, progress)
    return 0


def make_data(config: SweepConfig, task: str) -> None:
    """Collect or convert a task's demonstrations, unless they are there; the results get what collecting came to."""
    from lfm_policy.cli.collect import collect, env_id_of_task
    from lfm_policy.cli.convert import convert

    path, wanted = data_file(config, task), config.tasks[task]
    figures = path.with_suffix(".json")
    if not path.is_file() and wanted.source is not None:
        convert(wanted.source, str(path), env_id=env_id_of_task(wanted.task), n_procs=config.n_procs)
    elif not path.is_file() and wanted.data is None:
        collect(str(path), wanted.task, wanted.n_demonstrations, config.n_procs, json=str(figures), resume=True)
    if config.results and wanted.data is None and figures.is_file():
        Path(config.results).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(figures, Path(config.results) / f"{task}_demonstrations.json")


def write(task: str, comparison: Comparison, folders: dict[Path, str]) -> None:
    """Print a comparison, and write it as JSON, text and picture under each name."""
    from lfm_policy.evaluation.comparison_plots import draw
    from lfm_policy.evaluation.comparison_report import report, to_json
    from lfm_policy.evaluation.files import replacing, write_json
    from lfm_policy.provenance import provenance

    text = report(comparison)
    print(f"\n{task}: {text}", flush=True)
    for folder, name in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{name}.json", {**provenance(), **to_json(comparison)})
        with replacing(folder / f"{name}.txt") as temporary:
            temporary.write_text(text)
        draw(comparison, folder / f"{name}.png")


def _folders(config: SweepConfig, task: str) -> dict[Path, str]:
    from lfm_policy.sweep.run import task_folder

    folders = {task_folder(config, task): "comparison"}
    return folders | ({Path(config.results): task} if config.results else {})


_say: Callable[[str], None] = partial(print, flush=True)
