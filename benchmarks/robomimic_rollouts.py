"""Environment steps per second: our rollouts in two processes against robomimic's serial ones, of one checkpoint.

`python -m benchmarks.robomimic_rollouts [CHECKPOINT]` writes results/robomimic/rollouts.json. Without a checkpoint
an untrained policy of the demo's size acts in Lift: it never succeeds, so every episode has all its steps. Both
sides are timed whole, from a fresh process to the last episode; each interleaved round runs either once. Beside that
stands `stepping`: steps per second of the rollouts alone, without the start of processes and environments.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.robomimic_reading import DIMS, robomimic_version
from lfm_policy.evaluation.files import write_json
from lfm_policy.provenance import provenance

RESULTS = Path("results/robomimic/rollouts.json")
FIRST_SEED = 100_000


def write_checkpoint(folder: Path) -> Path:
    """An untrained policy of the demo's size for Lift, and the `env_args` it would have learned from."""
    from lfm_policy.data.action_space import ActionSpace
    from lfm_policy.evaluation.environment import make_env
    from lfm_policy.policy import ChainConfig, LFMConfig, LFMPolicy, PolicySpec, UNetConfig, save_policy

    env = make_env("lfm/Lift-v0")
    env_args: dict[str, Any] = env.unwrapped.env_args  # type: ignore[attr-defined]
    env.close()
    space = ActionSpace.from_env_args(env_args, "delta", "axis_angle", 7)
    spec = PolicySpec(tuple(DIMS.items()), space, env_id="lfm/Lift-v0", env_kwargs=env_args["env_kwargs"])
    config = LFMConfig(UNetConfig((32, 64, 128), embedding_dim=64), ChainConfig())
    save_policy(LFMPolicy(spec, config), folder, dataset={"file": "none", "env_args": env_args})
    return folder


def ours(checkpoint: Path, n_rollouts: int, horizon: int, n_procs: int) -> dict[str, float]:
    """Steps, and seconds that the rollouts themselves took by the rows: several at a time."""
    from lfm_policy.evaluation.rollout import evaluate

    episodes = evaluate(checkpoint, n_rollouts, FIRST_SEED, n_procs, max_steps=horizon).episodes
    busy = sum(row["policy_seconds"] + row["env_seconds"] for row in episodes)
    return {"steps": sum(row["steps"] for row in episodes), "seconds": busy / n_procs}


def theirs(checkpoint: Path, n_rollouts: int, horizon: int, n_procs: int) -> dict[str, float]:
    """Steps and seconds of robomimic's own rollouts in its own environment, one after the other."""
    import robomimic.utils.train_utils as train_utils
    import torch

    from lfm_policy.integrations.robomimic import rollout_env, rollout_policy

    torch.set_num_threads(1)
    policy, env = rollout_policy(checkpoint, FIRST_SEED), rollout_env(checkpoint)
    begin = time.perf_counter()
    logs = [train_utils.run_rollout(policy, env, horizon, terminate_on_success=True) for _ in range(n_rollouts)]
    return {"steps": sum(log["Horizon"] for log in logs), "seconds": time.perf_counter() - begin}


SIDES = {"ours": ours, "robomimic": theirs}


def measured(side: str, *arguments: Any) -> dict[str, float]:
    """Steps per second of a fresh process, whole and in its rollouts alone."""
    command = [sys.executable, "-m", "benchmarks.robomimic_rollouts", "--side", side, *map(str, arguments)]
    begin = time.perf_counter()
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    whole, found = time.perf_counter() - begin, json.loads(told.stdout.splitlines()[-1])
    return {"steps": found["steps"], "whole": found["steps"] / whole, "stepping": found["steps"] / found["seconds"]}


def main() -> None:
    """Both sides in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder of a checkpoint of Lift or another robosuite task")
    parser.add_argument("--n_rollouts", type=int, default=12)
    parser.add_argument("--horizon", type=int, default=400)
    parser.add_argument("--n_procs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, checkpoint, *counts = options.side
        print(json.dumps(SIDES[side](Path(checkpoint), *map(int, counts))))
        return
    begin, rounds = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or write_checkpoint(Path(folder))
        for _ in range(options.rounds):
            counts = (options.n_rollouts, options.horizon, options.n_procs)
            row = {side: measured(side, checkpoint, *counts) for side in SIDES}
            ratios = {kind: row["ours"][kind] / row["robomimic"][kind] for kind in ("whole", "stepping")}
            rounds.append({**{side: _rounded(rates) for side, rates in row.items()}, "ratio": _rounded(ratios, 3)})
            print(json.dumps(rounds[-1]), flush=True)
    facts = {
        "seeds": list(range(FIRST_SEED, FIRST_SEED + options.n_rollouts)),
        "robomimic": robomimic_version(),
        "checkpoint": Path(options.checkpoint).name if options.checkpoint else "untrained, of the demo's size",
        "n_rollouts": options.n_rollouts,
        "horizon": options.horizon,
        "n_procs": options.n_procs,
        "ratio": {kind: round(median(row["ratio"][kind] for row in rounds), 2) for kind in ("whole", "stepping")},
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, {**provenance(), **facts, "rows": rounds})
    print(json.dumps(facts, indent=1))


def _rounded(values: dict[str, float], digits: int = 1) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


if __name__ == "__main__":
    main()
