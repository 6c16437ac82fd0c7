"""The defaults on data nobody tuned to: 20,000 rows of 5 columns in very different units, whose density is known.

`python -m benchmarks.unseen_mixtures` writes results/density/unseen_mixtures.json. The mixtures of seeds 100 to 104
were not looked at when the defaults were chosen (those of seeds 0 and 1 were). KL = E[log p - log q] on fresh rows;
NLL alone would carry the rows' own spread.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mixtures import random_mixture
from benchmarks.runner import run_jobs
from lfm_policy.density import LocalFlowDensity
from lfm_policy.provenance import hardware

OUTPUT = Path("results/density/unseen_mixtures.json")
ROWS, TEST_ROWS = 20_000, 10_000


def run(mixture: int, threads: int) -> dict[str, Any]:
    """Fit the defaults and measure."""
    torch.set_num_threads(threads)
    law = random_mixture(mixture)
    rows = law.sample(ROWS, np.random.default_rng([mixture, 1]))
    test = law.sample(TEST_ROWS, np.random.default_rng([mixture, 2]))
    begin = time.perf_counter()
    density = LocalFlowDensity(random_state=0).fit(rows)
    seconds = time.perf_counter() - begin
    likelihood = density.likelihood(test)
    truth = law.log_prob(test)
    excess = truth - likelihood.log_prob.numpy()
    white = density.whitener_.normalize(torch.from_numpy(test))
    gaussian = -0.5 * (white**2).sum(1).numpy() - 2.5 * np.log(2 * np.pi) + density.whitener_.log_abs_det().item()
    return {
        "kl": float(excess.mean()),
        "kl_standard_error": float(excess.std(ddof=1) / np.sqrt(TEST_ROWS)),
        "kl_of_one_gaussian": float((truth - gaussian).mean()),
        "mean_change": likelihood.mean_change,
        "unconverged": int((~likelihood.converged).sum()),
        "fit_seconds": round(seconds, 1),
        "units": [float(f"{unit:.2g}") for unit in law.units],
    }


def main() -> None:
    """Five mixtures, one after the other with two threads, as a user of two cores would."""
    jobs = [{"mixture": seed, "threads": 2} for seed in range(100, 105)]
    threads = {**hardware(), "threads_per_worker": 2}
    facts = {"seeds": [0], "hardware": threads, "train_rows": ROWS, "test_rows": TEST_ROWS, "columns": 5}
    run_jobs(OUTPUT, run, jobs, facts, n_procs=1)


if __name__ == "__main__":
    main()
