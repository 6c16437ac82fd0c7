"""Rose and tree: nats above the exact entropy, for local flows and global ones at equal budget, and for our configs.

`python -m benchmarks.pictures --rose ROSE.png --tree TREE.png` writes results/density/pictures.json; without paths our
own drawings are taken, whose entropies are nearly the same. Equal budget: total parameters within 2 %, every network
sees the same number of batches of the same size; N sub-flows then cost the arithmetic of one global flow. `config` is
configs/toy/NAME.yaml as a user runs it.
"""

from __future__ import annotations

import argparse
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.runner import run_jobs
from benchmarks.widths import parameters, width_of
from lfm_policy.data.tables import Table, load_table
from lfm_policy.density import LocalFlowDensity

OUTPUT = Path("results/density/pictures.json")
# test NLL as the paper prints it, Figure 2 (the order of its panels is read from the text)
QUOTED = {"rose": {"LFM": 2.60, "FM": 2.64, "InterFlow": 2.64}, "tree": {"LFM": 2.24, "FM": 2.35, "InterFlow": 2.36}}
STEPS, ROWS = 4000, 10_000
COMMON: dict[str, Any] = {"batch_size": 512, "learning_rate": 1e-2, "evaluations": 1, "steps": STEPS, "depth": 3}
FINE = {"rose": {"c": 5e-4, "rho": 9.0, "n_frequencies": 6}, "tree": {"c": 1.5e-4, "rho": 9.0, "n_frequencies": 8}}
GLOBAL = {"n_subflows": 1, "coupling": "fresh", "marginals": "exact"}
METHODS: dict[str, dict[str, Any]] = {
    "lfm": {},
    "lfm, the paper's choices": {
        "c": 0.025,
        "rho": 1.25,
        "n_subflows": 9,
        "interpolant": "trigonometric",
        "coupling": "fresh",
        "marginals": "pushed",
        "warm_subflows": True,
    },
    "fm": {**GLOBAL, "interpolant": "ot"},
    "interflow": {**GLOBAL, "interpolant": "trigonometric"},
    "one small network": {"share_weights": True},
}
WIDTH = 128  # of one of four sub-flows; the others follow from equal totals


@cache
def table(name: str, path: str | None, rows: int = 1_000_000) -> Table:
    """The density with its samples."""
    return load_table(name, path, n_train=rows, n_valid=2000, n_test=ROWS)


def settings(name: str, method: str) -> dict[str, Any]:
    """Settings of `LocalFlowDensity` for a method, at equal budget."""
    if method == "config":
        return yaml.safe_load(Path(f"configs/toy/{name}.yaml").read_text())["model"]
    chosen = {**COMMON, **FINE[name], "width": WIDTH, **METHODS[method]}
    frequencies, n = chosen["n_frequencies"], chosen.get("n_subflows", 4)
    if not chosen.get("share_weights"):
        total = 4 * parameters(2, WIDTH, 3, frequencies)
        chosen["width"] = WIDTH if n == 4 else width_of(total // n, 2, 3, frequencies)
    return chosen


def run(density: str, method: str, seed: int, path: str | None) -> dict[str, Any]:
    """Train one model and measure KL = E[log p - log q] on test points, with the move of the last doubling of steps."""
    data, chosen = table(density, path), settings(density, method)
    model = LocalFlowDensity(**{**chosen, "tolerance": 1e-3})
    fitter = model.begin(torch.from_numpy(data.train), torch.from_numpy(data.valid), seed, data.columns)
    fitter.run(model.record)
    test = data.test[:ROWS]
    likelihood = model.likelihood(test)
    assert data.log_prob is not None
    assert data.entropy is not None
    excess = data.log_prob(test) - likelihood.log_prob.numpy()
    return {
        "kl": float(excess.mean()),
        "kl_standard_error": float(excess.std(ddof=1) / np.sqrt(len(excess))),
        "entropy": data.entropy,
        "test_nll": -float(likelihood.log_prob.mean()),
        "mean_change": likelihood.mean_change,
        "unconverged": int((~likelihood.converged).sum()),
        "steps": fitter.fitter.total_steps,
        "parameters": sum(weight.numel() for weight in model.flow_.parameters()),
        "settings": chosen,
    }


def main() -> None:
    """All runs: three seeds of every method, and the two configs once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rose", help="the picture; our own drawing if not given")
    parser.add_argument("--tree", help="the picture; our own drawing if not given")
    parser.add_argument("--n_procs", type=int, default=2)
    parser.add_argument("--only", help="only jobs of this method")
    given = parser.parse_args()
    paths = {"rose": given.rose, "tree": given.tree}
    methods = [*METHODS, "config"]
    jobs = [
        {"density": density, "method": method, "seed": seed, "path": paths[density]}
        for seed in range(3)
        for method in methods
        for density in paths
        if (method != "config" or seed == 0) and given.only in (None, method)
    ]
    facts = {
        "seeds": [0, 1, 2],
        "pictures": {
            name: hashlib.sha256(Path(p).read_bytes()).hexdigest() if p else "own" for name, p in paths.items()
        },
        "quoted": {name: {m: round(nll, 2) for m, nll in rows.items()} for name, rows in QUOTED.items()},
    }
    run_jobs(OUTPUT, run, jobs, facts, given.n_procs, keep=given.only is not None)


if __name__ == "__main__":
    main()
