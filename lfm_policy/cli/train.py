"""`lfm train`: train a policy on demonstrations."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lfm_policy.cli.parser import make_parser
from lfm_policy.flow import LFMError
from lfm_policy.training import TrainConfig, Trainer


def main(arguments: list[str], prog: str) -> int:
    """Train as the command line says; 130 after Ctrl-C, with a checkpoint to resume from."""
    return train(parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> TrainConfig:
    """The config of a command line: `--config FILE`, then dotted overrides."""
    parser = make_parser(prog, "Train a policy on demonstrations.", with_config=True)
    parser.add_class_arguments(TrainConfig)
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config", None)
    return TrainConfig(**values)


def train(config: TrainConfig) -> int:
    """Train, and roll out along the way if the config asks for it."""
    trainer = Trainer(config, roll_out=_rollouts(config))
    if config.rollout.n_rollouts:
        _check_environment(trainer, config.data.path)
    folder = trainer.run()
    if not trainer.fitter.done:
        print(f"stopped; {folder} is complete up to here, continue with --resume true")
        return 130 if trainer.interrupted else 0
    print(f"trained; checkpoint {folder}")
    return 0


def _check_environment(trainer: Trainer, path: str) -> None:
    """Raise LFMError before training where the rollouts after it could not be done."""
    from lfm_policy.evaluation.environment import check_fit
    from lfm_policy.evaluation.rollout import rollout_job

    if not trainer.policy.spec.env_id:
        raise LFMError(f"{path}: names no environment that is registered; set rollout.n_rollouts: 0")
    with contextlib.closing(rollout_job(trainer.policy, path).make_env()) as env:
        check_fit(trainer.policy.spec, env, path)


def _rollouts(config: TrainConfig) -> Callable[[Path, int], dict[str, Any]] | None:
    if not config.rollout.n_rollouts:
        return None
    from lfm_policy.evaluation.rollout import evaluate

    def roll_out(folder: Path, step: int) -> dict[str, Any]:
        options = config.rollout
        result = evaluate(str(folder), options.n_rollouts, options.seed, options.n_procs)
        low, high = result.summary["wilson95"]
        rate = result.summary["success_rate"]
        told = f"step {step}: success {rate:.3f} ({low:.3f} to {high:.3f}) over {options.n_rollouts} rollouts"
        tqdm.write(told, file=sys.stderr)  # above the bar
        return {"success_rate": rate, "wilson95": [low, high], "n_rollouts": options.n_rollouts}

    return roll_out
