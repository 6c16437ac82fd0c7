"""Three Meta-World tasks through the same commands as everything else: collect, train, roll out.

`python -m benchmarks.metaworld` writes results/metaworld/tasks.json; what is broken off goes on. Rollouts see the
fifty goals of MT1 that were demonstrated, from seeds that were not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import run_jobs

TASKS = ("pick-place-v3", "door-open-v3", "window-open-v3")
ENVIRONMENT = ["--task", "metaworld:Meta-World/MT1", "--success_key", "success"]
MAPPING = '{hand: "state[0:3]", gripper: "state[3]", object: "state[4:11]", goal: "state[36:39]"}'
EXPERT = ["--expert", "envs.experts.metaworld:make_expert", "--observation", MAPPING]
KEPT = ("success_rate", "n_success", "n_rollouts", "wilson95", "mean_steps", "nfe", "latency_ms")


def run(task: str, demonstrations: int, rollouts: int, seed: int) -> dict[str, Any]:
    """The three commands in a folder of their own; how often the policy and the expert succeed."""
    from lfm_policy.evaluation.rollout import evaluate

    with tempfile.TemporaryDirectory() as folder:
        data, output = f"{folder}/data.hdf5", f"{folder}/run"
        lfm = partial(subprocess.run, check=True, capture_output=True, text=True)
        lfm_command = [str(Path(sys.executable).with_name("lfm"))]
        kwargs = ["--env_kwargs", f"{{env_name: {task}, seed: 0}}"]
        collect = ["collect", "--out", data, "--n", str(demonstrations), *ENVIRONMENT, *EXPERT, *kwargs]
        lfm([*lfm_command, *collect, "--json", f"{folder}/data.json"])
        train = ["train", "--config", "configs/metaworld/task.yaml", "--data.path", data, "--output_dir", output]
        lfm([*lfm_command, *train, "--seed", str(seed)])
        evaluation = evaluate(output, rollouts)
        attempts = json.loads(Path(f"{folder}/data.json").read_text())["n_attempts"]
        return {name: evaluation.summary[name] for name in KEPT} | {"expert_attempts": attempts}


def main() -> None:
    """All tasks, one a core."""
    jobs = [{"task": task, "demonstrations": 50, "rollouts": 50, "seed": 0} for task in TASKS]
    facts = {"config": "configs/metaworld/task.yaml", "evaluation_seeds": [100_000, 100_049]}
    run_jobs(Path("results/metaworld/tasks.json"), run, jobs, facts)


if __name__ == "__main__":
    main()
