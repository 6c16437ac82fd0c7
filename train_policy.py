"""Train a policy on demonstrations: `python train_policy.py --config FILE --data.path FILE --output_dir DIR`."""

import sys

from lfm_policy.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:], "train_policy.py"))
