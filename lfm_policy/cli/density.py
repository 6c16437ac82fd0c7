"""`lfm density train|evaluate|sample|plot`: densities of tables and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfm_policy.cli.parser import OneLineParser, make_parser
from lfm_policy.flow import LFMError

if TYPE_CHECKING:
    from lfm_policy.density.config import DensityConfig
    from lfm_policy.density.estimator import LocalFlowDensity

ACTIONS = {
    "train": "learn the density of a table or a picture",
    "evaluate": "report the likelihood of train, validation and test rows",
    "sample": "draw rows into a file",
    "plot": "draw samples, density, trajectory and training curves",
}
SUFFIXES = (".csv", ".npy", ".npz", ".parquet")


def main(arguments: list[str], prog: str) -> int:
    """Run one of the actions; 130 after Ctrl-C in training, with a checkpoint to resume from."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(prog))
        return 0
    action, rest = arguments[0], arguments[1:]
    if action not in ACTIONS:
        raise LFMError(f"{prog}: has no action '{action}'; there are {', '.join(ACTIONS)}")
    parser = _parser(f"{prog} {action}", ACTIONS[action])
    if action == "sample":
        parser.add_argument("--out", required=True, help=f"file to write: {', '.join(SUFFIXES)}")
        parser.add_argument("--n", type=int, default=1000, help="rows to draw")
        parser.add_argument("--sample_seed", type=int, default=0, help="seed of the noise")
    values = parser.instantiate(parser.parse_args(rest)).as_dict()
    extras = {name: values.pop(name) for name in ("out", "n", "sample_seed") if name in values}
    functions: dict[str, Callable[..., int]] = {"train": train, "evaluate": evaluate, "sample": sample, "plot": plot}
    return functions[action](_config(values), **extras)


def train(config: DensityConfig) -> int:
    """Train, evaluate and draw."""
    from lfm_policy.density.run import DensityRun

    run = DensityRun(config)
    print(f"{run.table.name}: {run.table.source}; {len(run.table.train):,} rows of {len(run.table.columns)} columns")
    folder = run.train()
    if not run.done:
        print(f"stopped; {folder} is complete up to here, continue with --resume true")
        return 130 if run.interrupted else 0
    print(f"trained; {folder}")
    if config.evaluation.after_training:
        evaluate(config)
        plot(config)
    return 0


def evaluate(config: DensityConfig) -> int:
    """Print the likelihoods and write them to evaluation.json."""
    from lfm_policy.density.report import PARTS, told
    from lfm_policy.density.report import evaluate as figures
    from lfm_policy.density.run import EVALUATION_FILE, check_table_of
    from lfm_policy.evaluation.files import write_json
    from lfm_policy.progress import progress_bar
    from lfm_policy.provenance import provenance

    density, table = _trained(config), config.data.load(config.seed)
    check_table_of(Path(config.output_dir), table)
    total = sum(len(getattr(table, part)[: config.evaluation.rows]) for part in PARTS)
    with progress_bar("likelihoods", total, unit="row") as bar:
        found = figures(density, table, config.evaluation.rows, bar.update)
    facts = {"table": table.name, "source": table.source, "seeds": [config.seed]}
    write_json(Path(config.output_dir) / EVALUATION_FILE, {**provenance(), **facts, **found})
    print(told(found))
    return 0


def sample(config: DensityConfig, out: str, n: int, sample_seed: int) -> int:
    """Draw rows into a file."""
    from lfm_policy.data.table_files import write_numbers
    from lfm_policy.density.storage import read_columns
    from lfm_policy.evaluation.files import check_outputs, check_suffix

    if n < 1:
        raise LFMError(f"--n {n}: must be 1 or more")
    if not 0 <= sample_seed < 2**32:
        raise LFMError(f"--sample_seed {sample_seed}: must be 0 or more and below 2^32")
    check_outputs({"out": out}, config.overwrite)
    check_suffix("out", out, SUFFIXES)
    rows = _trained(config).sample(n, sample_seed)
    write_numbers(out, rows, read_columns(Path(config.output_dir)))
    print(f"{n:,} rows: {out}")
    return 0


def plot(config: DensityConfig) -> int:
    """Draw every picture into the run's folder plots/."""
    from lfm_policy.density.plots import draw_all
    from lfm_policy.density.run import PLOTS, check_table_of

    folder = Path(config.output_dir)
    density, table = _trained(config), config.data.load(config.seed)
    check_table_of(folder, table)
    drawn = draw_all(density, table, folder / PLOTS, config.seed)
    print(f"pictures: {', '.join(str(path) for path in drawn)}")
    return 0


def _parser(prog: str, description: str) -> OneLineParser:
    from lfm_policy.density.config import DensityConfig
    from lfm_policy.density.estimator import LocalFlowDensity

    parser = make_parser(prog, description, with_config=True)
    parser.add_class_arguments(DensityConfig, skip={"model"})
    parser.add_class_arguments(LocalFlowDensity, "model", skip={"random_state"})
    return parser


def _config(values: dict[str, Any]) -> DensityConfig:
    from lfm_policy.density.config import DensityConfig

    values.pop("config", None)
    model = values.pop("model")
    settings = model if isinstance(model, dict) else model.get_params()
    settings.pop("random_state", None)
    return DensityConfig(**values, model=settings)


def _trained(config: DensityConfig) -> LocalFlowDensity:
    """The run's density, on the device and to the tolerance that the command asks for."""
    import torch

    from lfm_policy.density.settings import check_settings
    from lfm_policy.density.storage import load_density

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    density = load_density(Path(config.output_dir), config.model["device"])
    density.set_params(tolerance=config.model["tolerance"], n_probes=config.model["n_probes"])
    check_settings(density)
    return density


def _help(prog: str) -> str:
    lines = [f"  {name:<9} {text}" for name, text in ACTIONS.items()]
    usage = f"usage: {prog} ACTION --config FILE [options]"
    return "\n".join([usage, "", *lines, "", f"{prog} ACTION --help tells more."])
