"""Roll a policy out: `python rollout.py CHECKPOINT --n_rollouts 100 --n_procs 2 --json out.json`."""

import sys

from lfm_policy.cli.main import run

if __name__ == "__main__":
    sys.exit(run("rollout", sys.argv[1:], "rollout.py"))
